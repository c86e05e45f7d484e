"""Is a dataset fit to train on? Everything that can be found out by reading it, as a list of findings."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..robot.errors import CorruptEpisode, DataError
from ..robot.rig import ARMS
from ..robot.types import ArmSpec
from .check_images import check_depth_scale, check_stream
from .check_times import check_times
from .check_tracking import check_tracking
from .check_values import (
    check_finite,
    check_index,
    check_label,
    check_names,
    check_ranges,
    check_safety,
)
from .episode_stats import column_stats
from .episodes import Dataset, EpisodeArrays, EpisodeRef, load_episodes, survey
from .findings import Finding, ordered
from .labels import episode_ids
from .layout import CALIBRATION_DIR, LABELS_PATH, STATS_PATH, read_info
from .schema import DEPTH_SUFFIX, IMAGES, INDEX_COLUMNS, LABEL_COLUMNS, Column

Advance = Callable[[int, int], None]
"""Called with episodes done and episodes in all."""


def check_dataset(
    root: Path, *, arm: ArmSpec | None = None, images: bool = True, workers: int = 2, advance: Advance = lambda *_: None
) -> list[Finding]:
    """All findings, worst first; empty if nothing is wrong. `arm` None: by the dataset's robot type.

    `images` False skips decoding, by far the longest part. Raises DataError if there is no dataset, or its journal of
    labels is damaged.
    """
    dataset, missing = survey(root)
    if lacking := {"observation.state", "action"} - set(dataset.schema.columns):
        raise DataError(f"{root}: no column {', '.join(sorted(lacking))}; only data of a robot arm can be checked")
    found = [_missing(index) for index in missing]
    arm = arm or ARMS.get(dataset.schema.robot)
    if arm is None:
        known = ", ".join(ARMS)
        found.append(Finding("note", "arm", None, f"robot {dataset.schema.robot!r} is not known here", f"one of {known}",
                             "joint names and ranges were not checked; name the arm with --arm"))  # fmt: skip
    else:
        found += check_names(dataset.schema, arm)
    loaded, unreadable = load_readable(dataset)
    found += unreadable
    for arrays in loaded:
        found += _check_rows(dataset, arrays, arm)
    found += _check_totals(root, loaded, complete=not (missing or unreadable))
    state, action = dataset.schema.columns["observation.state"], dataset.schema.columns["action"]
    if state.names == action.names and state.shape == action.shape:
        found += check_tracking(loaded, action.names or _numbered(action), dataset.schema.fps)
    else:
        found.append(Finding("note", "delay", None, "states and actions have different entries", "the same entries",
                             "delay and offset between them were not checked"))  # fmt: skip
    found += check_duplicates(root, loaded)
    if not (missing or unreadable):
        found += check_statistics(root, loaded)
    if images:
        found += _check_images(dataset, loaded, workers, advance)
    return ordered(found)


def load_readable(dataset: Dataset) -> tuple[list[EpisodeArrays], list[Finding]]:
    """Numbers of every episode that has all of its rows, and findings about the other episodes."""
    numbers = ("float", "int", "bool")
    names = [name for name, column in dataset.schema.columns.items() if column.dtype.startswith(numbers)]
    try:
        return load_episodes(dataset, columns=names), []
    except DataError:
        pass  # one by one, to find out which
    loaded, found = [], []
    for ref in dataset.episodes:
        try:
            loaded += load_episodes(dataset, [ref], names)
        except (CorruptEpisode, DataError) as error:
            found.append(Finding("error", "rows", ref.index, str(error), f"{ref.length} rows with every column",
                                 "`armflow data repair` leaves the episode out", "drop"))  # fmt: skip
    return loaded, found


def _numbered(column: Column) -> tuple[str, ...]:
    return tuple(f"entry {j}" for j in range(column.shape[0]))


def check_duplicates(root: Path, episodes: Sequence[EpisodeArrays]) -> Iterator[Finding]:
    """Episodes with the same actions, or made from the same recording."""
    ids = episode_ids(root)
    for what, key in (
        ("has the same actions", action_hash),
        ("is the same recording", lambda e: ids.get(e.ref.index)),
    ):
        first: dict[Any, int] = {}
        for episode in episodes:
            value = key(episode)
            if value is not None and first.setdefault(value, episode.ref.index) != episode.ref.index:
                yield Finding(
                    "error", "duplicate", episode.ref.index, f"{what} as episode {first[value]}", "every episode once",
                    f"leave one out: `armflow data repair --drop {episode.ref.index}`",
                )  # fmt: skip


def action_hash(episode: EpisodeArrays) -> str:
    """Content hash of an episode's actions: the same for every copy of it."""
    return hashlib.sha256(np.ascontiguousarray(episode.action).tobytes()).hexdigest()[:16]


def check_statistics(root: Path, episodes: Sequence[EpisodeArrays]) -> Iterator[Finding]:
    """`stats.json` holds the statistics of all frames together, computed here again."""
    path = root / STATS_PATH
    if not episodes:
        return
    if not path.exists():
        yield _statistics("there is no stats.json")
        return
    stored = json.loads(path.read_text(encoding="utf-8"))
    skip = (*INDEX_COLUMNS, *LABEL_COLUMNS)  # nobody normalises them
    wrong = []
    for name in (name for name in episodes[0].columns if name not in skip):
        expected = column_stats(np.concatenate([episode.columns[name] for episode in episodes]))
        if not _equal(stored.get(name, {}), expected):
            wrong.append(name)
    if wrong:
        yield _statistics(f"statistics of {', '.join(wrong)} are not those of the frames")


def _equal(stored: Mapping[str, Any], expected: Mapping[str, NDArray[Any]]) -> bool:
    if set(stored) != set(expected) or any(np.shape(stored[key]) != value.shape for key, value in expected.items()):
        return False
    return all(np.allclose(stored[key], expected[key], rtol=1e-5, atol=1e-7, equal_nan=True) for key in expected)


def _statistics(found: str) -> Finding:
    return Finding(
        "error", "statistics", None, found, "exact quantiles, mean and range over all frames",
        "LeRobot's policies normalise with them; `armflow data repair` computes them anew", "statistics",
    )  # fmt: skip


def _missing(index: int) -> Finding:
    return Finding(
        "error", "index", index, "missing from meta/episodes", "an entry for every episode",
        "later episodes may be paired with the wrong video; `armflow data repair` makes a dataset of the others", "drop",
    )  # fmt: skip


def _check_rows(dataset: Dataset, arrays: EpisodeArrays, arm: ArmSpec | None) -> Iterator[Finding]:
    schema = dataset.schema
    first_row = sum(ref.length for ref in dataset.episodes if ref.index < arrays.ref.index)
    yield from check_index(arrays, first_row, schema.fps)
    yield from check_finite(arrays, schema)
    yield from check_times(arrays, schema)
    if arm is not None and arm.dof + 1 == arrays.state.shape[1]:
        yield from check_ranges(arrays, arm, schema.fps)
    yield from check_safety(arrays)
    if (dataset.root / LABELS_PATH).exists():
        yield from check_label(arrays)


def _check_totals(root: Path, loaded: Sequence[EpisodeArrays], *, complete: bool) -> Iterator[Finding]:
    info = read_info(root) or {}
    frames = sum(len(arrays) for arrays in loaded)
    if complete and int(info["total_frames"]) != frames:
        yield Finding(
            "error", "index", None, f"info.json counts {info['total_frames']} frames", f"{frames}, as the rows are",
            "`armflow data repair` writes it anew", "rewrite",
        )  # fmt: skip
    if not (root / LABELS_PATH).exists():
        yield Finding(
            "warning", "label", None, "no episode has a label", "an outcome for every episode",
            "`armflow data relabel` gives it; imitation needs none, learning from experience does",
        )  # fmt: skip


def _check_images(dataset: Dataset, loaded: Sequence[EpisodeArrays], workers: int, advance: Advance) -> list[Finding]:
    users = Counter(video.path for ref in dataset.episodes for video in ref.videos.values())
    found: list[Finding] = []
    depths: dict[tuple[int, str], float] = {}

    def check(arrays: EpisodeArrays) -> list[tuple[str, Any]]:
        videos = arrays.ref.videos
        return [(n, check_stream(dataset, arrays, n, alone=users[videos[n].path] == 1)) for n in videos]

    with ThreadPoolExecutor(workers) as pool:  # decoders run without the interpreter's lock
        for done, (arrays, streams) in enumerate(zip(loaded, pool.map(check, loaded), strict=True), start=1):
            for name, facts in streams:
                found += facts.findings
                if facts.depth_mm is not None:
                    depths[arrays.ref.index, name.removeprefix(IMAGES).removesuffix(DEPTH_SUFFIX)] = facts.depth_mm
            advance(done, len(loaded))
    table = _table_distances(dataset.root, [arrays.ref for arrays in loaded], dataset.schema.depth_cameras)
    return [*found, *check_depth_scale(depths, table)]


def _table_distances(root: Path, refs: Sequence[EpisodeRef], cameras: Sequence[str]) -> dict[tuple[int, str], float]:
    """Distance, mm, from a calibrated camera along its axis to the table (z = 0), where it looks at it."""
    distances: dict[tuple[int, str], float] = {}
    for ref in refs:
        if ref.label is None or not ref.label.calibration_hash:
            continue
        path = root / CALIBRATION_DIR / f"{ref.label.calibration_hash}.json"
        calibration = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        for camera in cameras:
            X_BC = np.asarray(calibration.get(camera, {}).get("X_BC", np.eye(4)), np.float64)
            height, sinking = X_BC[2, 3], -X_BC[2, 2]
            if height > 0 and sinking > 0.2:  # looks down by more than 12 degrees
                distances[ref.index, camera] = 1e3 * height / sinking
    return distances
