"""Normalisation statistics: exact quantiles over all frames together, never an average over episodes.

Averaging the episodes' quantiles cuts off the tails (a true range of +-0.97 became -0.22..0.28 in a published case), and
everything outside is far beyond the [-1, 1] a policy was built for.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..robot.errors import MissingStats
from .episodes import EpisodeArrays
from .layout import write_atomic

Floats = NDArray[np.float64]

STATE = "observation.state"
ACTION = "action"
RELATIVE_ACTION = "action.relative"
"""Chunks of actions relative to the state at the chunk's start: joints relative, gripper absolute."""


@dataclass(frozen=True)
class StatsCfg:
    """How statistics are computed."""

    horizon: int = 50
    """Steps of a chunk that relative actions are pooled over; the policy's chunk size."""
    min_range: float = 0.02
    """Floor on q99 - q01, in rad and gripper openings: a joint that hardly moved must not turn its noise into +-1."""


@dataclass(frozen=True, eq=False)
class Stats:
    """One quantity's statistics; arrays are (d,), in the order of `names`."""

    names: tuple[str, ...]
    count: int
    min: Floats
    max: Floats
    mean: Floats
    std: Floats
    q01: Floats
    q99: Floats


@dataclass(frozen=True, eq=False)
class DatasetStats:
    """Statistics by quantity. Asking for one that is not there is an error, never a pass-through."""

    horizon: int
    _by_name: Mapping[str, Stats] = field(repr=False)

    def __getitem__(self, name: str) -> Stats:
        if name not in self._by_name:
            raise MissingStats(
                f"no statistics of {name!r}; available: {', '.join(sorted(self._by_name)) or 'none'}. "
                "Compute them from the training data (armflow.datasets.stats.compute_stats)"
            )
        return self._by_name[name]

    def to_json(self) -> str:
        by_name = {name: _to_lists(stats) for name, stats in self._by_name.items()}
        return json.dumps({"horizon": self.horizon, "stats": by_name}, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "DatasetStats":
        """Inverse of `to_json`. Raises MissingStats if the text holds no statistics."""
        try:
            values = json.loads(text)
            by_name = {name: _from_lists(stats) for name, stats in values["stats"].items()}
            return DatasetStats(int(values["horizon"]), by_name)
        except (ValueError, KeyError, TypeError) as error:
            raise MissingStats(f"these are no normalisation statistics: {error!r}") from error


def compute_stats(
    episodes: Sequence[EpisodeArrays], names: tuple[str, ...], cfg: StatsCfg | None = None
) -> DatasetStats:
    """Statistics of states, actions and relative action chunks over all frames of `episodes`.

    `names` are the entries of states and actions, gripper last. Raises MissingStats if there are no frames.
    """
    cfg = cfg or StatsCfg()
    if not sum(len(episode) for episode in episodes):
        raise MissingStats("no frames to compute statistics from; record and commit episodes first")
    relative = []
    for episode in episodes:
        chunks, valid = relative_chunk_actions(episode.action, episode.state, cfg.horizon)
        relative.append(chunks[valid])  # beyond the end there are only copies of the last action
    pooled = {
        STATE: np.concatenate([episode.state for episode in episodes]),
        ACTION: np.concatenate([episode.action for episode in episodes]),
        RELATIVE_ACTION: np.concatenate(relative),
    }
    return DatasetStats(cfg.horizon, {name: pool(values, names, cfg.min_range) for name, values in pooled.items()})


def pool(values: NDArray[Any], names: tuple[str, ...], min_range: float) -> Stats:
    """Exact statistics of (n, d) values; a range q99 - q01 below `min_range` is widened evenly about its centre."""
    entries = [values[:, j].astype(np.float64) for j in range(values.shape[1])]
    q01, q99 = np.array([np.quantile(entry, [0.01, 0.99]) for entry in entries]).T
    widen = np.maximum(min_range - (q99 - q01), 0.0) / 2
    return Stats(
        names=names,
        count=len(values),
        min=np.array([entry.min() for entry in entries]),
        max=np.array([entry.max() for entry in entries]),
        mean=np.array([entry.mean() for entry in entries]),
        std=np.array([entry.std() for entry in entries]),
        q01=q01 - widen,
        q99=q99 + widen,
    )


def relative_chunk_actions(
    actions: NDArray[np.floating], states: NDArray[np.floating], horizon: int
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Chunks that start at every frame: actions (n, d) and states (n, d) to (n, horizon, d) and valid (n, horizon).

    Joints are relative to the state at the chunk's start, the gripper (last entry) is absolute. Steps beyond the
    episode's end repeat the last action and are not valid.
    """
    n = len(actions)
    frame = np.arange(n)[:, None] + np.arange(horizon)
    chunks = actions[np.minimum(frame, n - 1)]
    chunks[..., :-1] -= states[:, None, :-1]
    return chunks, frame < n


def absolute_chunk_actions(relative: NDArray[np.floating], state: NDArray[np.floating]) -> NDArray[np.floating]:
    """Inverse of `relative_chunk_actions`: relative (..., horizon, d) and the state (..., d) at the chunk's start."""
    chunks = relative.copy()
    chunks[..., :-1] += state[..., None, :-1]
    return chunks


def fraction_outside(values: NDArray[np.floating], stats: Stats) -> Floats:
    """Share of values (n, d) outside [q01, q99], (d,). About 0.02 on the data the statistics come from."""
    return ((values < stats.q01) | (values > stats.q99)).mean(axis=0)


def save_stats(path: Path, stats: DatasetStats) -> None:
    write_atomic(path, stats.to_json())


def load_stats(path: Path) -> DatasetStats:
    """Raises MissingStats if the file is not there or holds something else."""
    if not path.exists():
        raise MissingStats(f"{path} does not exist; a checkpoint without its statistics cannot be used, train it again")
    return DatasetStats.from_json(path.read_text(encoding="utf-8"))


def _to_lists(stats: Stats) -> dict[str, Any]:
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(stats).items()}


def _from_lists(values: Mapping[str, Any]) -> Stats:
    arrays = {name: np.asarray(value) for name, value in values.items() if name not in ("names", "count")}
    return Stats(names=tuple(values["names"]), count=int(values["count"]), **arrays)
