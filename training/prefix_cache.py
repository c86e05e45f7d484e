"""Outputs of the frozen vision-language prefix for the frames of a dataset, on disk, computed once.

Keyed by the prefix's weights and the dataset's content, so fine-tuned experts of one base share it.
"""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import nn

from ..datasets.chunks import mode_changes
from ..datasets.episodes import Dataset, EpisodeArrays, dataset_hash, iterate_images, load_episodes, open_dataset
from ..robot.errors import SchemaMismatch
from ..robot.types import ControlMode
from .pi05_mini.modeling_pi05_mini import PI05MiniPolicy
from .policy import Context, ObsBatch

BATCH = 64
ARRAYS = tuple(f.name for f in fields(Context))


@dataclass(frozen=True, eq=False)
class PrefixCache:
    """Contexts of some frames; row r is frame `frame[r]` of episode `episode[r]`."""

    folder: Path
    episodes: list[EpisodeArrays]  # by index in the dataset, discarded ones left out
    episode: NDArray[np.int64]  # (rows,) index in the dataset
    frame: NDArray[np.int64]  # (rows,)
    arrays: dict[str, NDArray]  # fields of Context, memory-mapped

    def __len__(self) -> int:
        return len(self.frame)

    def context(self, rows: NDArray[np.int64] | torch.Tensor) -> Context:
        """Contexts of `rows`, in fp32."""
        index = np.asarray(rows)
        return Context(**{n: torch.from_numpy(a[index]) for n, a in self.arrays.items()}).float()

    def tokens(self, rows: NDArray[np.int64] | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Last-layer tokens (n, tokens, width) in fp32, and their mask (n, tokens)."""
        index = np.asarray(rows)
        return torch.from_numpy(self.arrays["tokens"][index]).float(), torch.from_numpy(self.arrays["mask"][index])

    @property
    def state(self) -> NDArray[np.float32]:
        """(rows, 8) raw."""
        return self.arrays["state"]

    def row_of(self) -> dict[tuple[int, int], int]:
        """(episode, frame) -> row."""
        return {key: row for row, key in enumerate(zip(self.episode.tolist(), self.frame.tolist(), strict=True))}


def prefix_hash(policy: PI05MiniPolicy) -> str:
    """16 hex digits of everything that `encode` depends on."""
    shape = repr(policy.config.network()) + repr(policy.config.vocabulary)
    return modules_hash(policy.prefix, policy.state_norm, salt=shape)


def modules_hash(*modules: nn.Module, salt: str = "") -> str:
    """16 hex digits of the names and values of all tensors."""
    digest = hashlib.sha256(salt.encode())
    for name, tensor in (item for module in modules for item in module.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def check_dataset(policy: PI05MiniPolicy, dataset: Dataset) -> None:
    """Raises SchemaMismatch if policy and dataset disagree on joint order, rate or cameras."""
    names = dataset.schema.action_names
    cfg = policy.config
    if names != tuple(cfg.action_names):
        raise SchemaMismatch(
            f"{dataset.root}: actions are {', '.join(names)}; the policy was trained on {', '.join(cfg.action_names)}. "
            "Record with the same joint order, or pretrain a policy for this one"
        )
    if dataset.schema.fps != cfg.fps:
        raise SchemaMismatch(
            f"{dataset.root}: recorded at {dataset.schema.fps} fps, the policy acts at {cfg.fps:g} fps; "
            "record at the policy's rate"
        )
    if lacking := [c for c in cfg.cameras if c not in dataset.schema.cameras]:
        raise SchemaMismatch(
            f"{dataset.root}: no camera {', '.join(lacking)}; it has {', '.join(dataset.schema.cameras)}"
        )


def build(policy: PI05MiniPolicy, root: Path, cache_dir: Path, *, stride: int = 1) -> PrefixCache:
    """The cache of dataset `root`; computed if absent. Of every episode: frames 0, stride, 2 stride ..., the last one,
    and those at which a person takes over, gives back or pauses."""
    dataset = open_dataset(root)
    check_dataset(policy, dataset)
    folder = cache_dir / f"prefix-{prefix_hash(policy)}-{dataset_hash(root)}-{stride}"
    kept = [e for e in dataset.episodes if e.kept]
    episodes = load_episodes(dataset, kept)
    frames = [cached_frames(e, stride) for e in episodes]
    if not folder.exists():
        _compute(policy, dataset, episodes, frames, folder)
    return PrefixCache(
        folder=folder,
        episodes=episodes,
        episode=np.concatenate([np.full(len(f), e.ref.index) for e, f in zip(episodes, frames, strict=True)]),
        frame=np.concatenate(frames),
        arrays={name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS},
    )


def cached_frames(episode: EpisodeArrays, stride: int) -> NDArray[np.int64]:
    """Every state that a critic may start from or look ahead to, when its chunks start at multiples of `stride`."""
    acted = np.flatnonzero(episode.control_mode != ControlMode.PAUSE)
    ends = np.concatenate([mode_changes(episode.control_mode), acted[-1:], [len(episode) - 1]])
    return np.unique(np.append(np.arange(0, len(episode), stride), ends))


@torch.inference_mode()
def _compute(
    policy: PI05MiniPolicy,
    dataset: Dataset,
    episodes: Sequence[EpisodeArrays],
    frames: Sequence[NDArray[np.int64]],
    folder: Path,
) -> None:
    """All or nothing: the folder appears when every row is in it."""
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    policy.eval()
    total = sum(len(f) for f in frames)
    out: dict[str, NDArray] = {}
    row = 0
    images = iterate_images(dataset, [e.ref for e in episodes], policy.config.cameras)
    described = f"prefix of {total} frames"
    for (_, by_camera), episode, index in zip(
        track(images, total=len(episodes), description=described), episodes, frames, strict=True
    ):
        for chosen in np.array_split(index, max(1, round(len(index) / BATCH))):
            batch = ObsBatch(
                {c: torch.from_numpy(x[chosen]).permute(0, 3, 1, 2) for c, x in by_camera.items()},
                torch.from_numpy(episode.state[chosen]),
                [episode.ref.task] * len(chosen),
            )
            ctx = policy.encode(batch)
            for name in ARRAYS:
                value = _stored(name, getattr(ctx, name))
                if name not in out:
                    out[name] = np.lib.format.open_memmap(
                        part / f"{name}.npy", mode="w+", dtype=value.dtype, shape=(total, *value.shape[1:])
                    )
                out[name][row : row + len(chosen)] = value
            row += len(chosen)
    for array in out.values():
        array.flush()  # type: ignore[attr-defined]
    part.rename(folder)


def _stored(name: str, value: torch.Tensor) -> NDArray:
    """Half precision on disk, except for the robot's state: relative actions are exact."""
    return value.numpy() if name in ("state", "mask") else value.half().numpy()
