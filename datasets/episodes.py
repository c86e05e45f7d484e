"""Reading a committed dataset fast, for training: whole episodes as arrays, images decoded once.

Works on any LeRobot v3 dataset; labels are there if armflow recorded it.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..robot.errors import CorruptEpisode, DataError
from ..robot.types import ControlMode
from .labels import EpisodeLabel, label_columns, newest_labels
from .layout import LABELS_PATH, read_info
from .schema import DEPTH_SUFFIX, IMAGES, INDEX_COLUMNS, LABEL_COLUMNS, Schema, schema_from_info
from .video import read_frames

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class VideoRef:
    path: Path
    first_frame: int  # where the episode starts in the file


@dataclass(frozen=True)
class EpisodeRef:
    """Where an episode lies and what is known about it."""

    index: int
    length: int
    task: str
    data: Path
    videos: Mapping[str, VideoRef]  # by column
    label: EpisodeLabel | None  # newest; None if armflow did not record this dataset

    @property
    def kept(self) -> bool:
        """Not discarded by a person."""
        return self.label is None or self.label.outcome != "discarded"


@dataclass(frozen=True)
class Dataset:
    """A dataset on disk: its schema and its episodes, by index. Nothing is loaded yet."""

    root: Path
    schema: Schema
    episodes: tuple[EpisodeRef, ...]

    @property
    def total_frames(self) -> int:
        return sum(episode.length for episode in self.episodes)


@dataclass(frozen=True, eq=False)
class EpisodeArrays:
    """All columns of an episode except its images, n frames each."""

    ref: EpisodeRef
    columns: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return self.ref.length

    @property
    def state(self) -> Floats:
        """(n, dof + 1) joint positions, rad, and gripper opening."""
        return self.columns["observation.state"]

    @property
    def action(self) -> Floats:
        """(n, dof + 1) executed joint targets, rad, and gripper opening."""
        return self.columns["action"]

    @property
    def requested(self) -> Floats:
        """(n, dof + 1) what was asked for before the safety filter."""
        return self.columns["action.requested"]

    @property
    def control_mode(self) -> NDArray[np.int64]:
        """(n,) `ControlMode`: who decided. Others' datasets do not say: there one decided throughout."""
        return self.columns.get("control_mode", np.full(len(self), ControlMode.HUMAN, np.int64))

    @property
    def reward(self) -> Floats:
        """(n,) 1 on the last frame of a success; follows the newest label."""
        return self._from_label["next.reward"]

    @property
    def success(self) -> bool:
        return bool(self._from_label["next.success"].any())

    @property
    def terminated(self) -> bool:
        """The task ended. False: cut off by the time limit. Without a label, only a success counts as an end."""
        return self.ref.label.terminated if self.ref.label is not None else self.success

    @cached_property
    def _from_label(self) -> Mapping[str, NDArray[Any]]:
        if self.ref.label is not None:
            return label_columns(self.ref.label, len(self))
        if missing := [name for name in LABEL_COLUMNS if name not in self.columns]:
            raise DataError(f"episode {self.ref.index} has neither a label nor {', '.join(missing)}; label it first")
        return self.columns


def open_dataset(root: Path) -> Dataset:
    """Read a dataset's index. Raises DataError if there is none, CorruptEpisode if episodes are missing from it."""
    dataset, missing = survey(root)
    if missing:
        raise CorruptEpisode(
            f"{root}: episodes {missing} of {len(missing) + len(dataset.episodes)} are missing from meta/episodes; "
            "`armflow data repair` makes a dataset of the others"
        )
    return dataset


def survey(root: Path) -> tuple[Dataset, list[int]]:
    """The episodes that a dataset's index still holds, and the numbers of those it should hold. Raises DataError."""
    info = read_info(root)
    if info is None:
        raise DataError(f"{root}: no LeRobot dataset here (no meta/info.json); commit a recording first")
    schema, total, labels = schema_from_info(info), int(info["total_episodes"]), newest_labels(root)
    episodes = {}
    for row in _episode_rows(root, schema):
        if row["episode_index"] < total:  # one beyond is being committed right now
            episodes[row["episode_index"]] = _ref(root, info, schema, row, labels)
    return (
        Dataset(root, schema, tuple(episodes[index] for index in sorted(episodes))),
        [index for index in range(total) if index not in episodes],
    )


def load_episodes(
    dataset: Dataset, episodes: Sequence[EpisodeRef] | None = None, columns: Sequence[str] | None = None
) -> list[EpisodeArrays]:
    """All columns (or some) of all episodes (or some). Raises CorruptEpisode if rows are missing."""
    episodes = dataset.episodes if episodes is None else episodes
    names = list(columns) if columns is not None else _row_names(dataset.schema)
    by_file: dict[Path, list[EpisodeRef]] = {}
    for episode in episodes:
        by_file.setdefault(episode.data, []).append(episode)
    with ThreadPoolExecutor(4) as pool:
        loaded = pool.map(lambda item: _load_file(item[0], item[1], dataset.schema, names), by_file.items())
        arrays = {episode.ref.index: episode for part in loaded for episode in part}
    return [arrays[episode.index] for episode in episodes]


def read_columns(dataset: Dataset) -> dict[str, list[NDArray[Any]]]:
    """Every column as a list of arrays, one per episode."""
    names = [*_row_names(dataset.schema), *(name for name in INDEX_COLUMNS if name in dataset.schema.columns)]
    loaded = load_episodes(dataset, columns=names)
    return {name: [episode.columns[name] for episode in loaded] for name in names}


def load_images(dataset: Dataset, episode: EpisodeRef, camera: str, *, stride: int = 1) -> NDArray[np.uint8]:
    """Colour frames 0, stride, 2 stride ... of an episode, (n, h, w, 3). Raises CorruptEpisode, DataError."""
    return _load_video(dataset, episode, IMAGES + camera, stride)


def load_depth_mm(dataset: Dataset, episode: EpisodeRef, camera: str, *, stride: int = 1) -> NDArray[np.uint16]:
    """Depth frames 0, stride, 2 stride ... of an episode, (n, h, w) mm, 0 = no return. Raises CorruptEpisode, DataError."""
    return _load_video(dataset, episode, IMAGES + camera + DEPTH_SUFFIX, stride)


def iterate_images(
    dataset: Dataset,
    episodes: Iterable[EpisodeRef],
    cameras: Sequence[str] | None = None,
    *,
    stride: int = 1,
    workers: int = 2,
) -> Iterator[tuple[EpisodeRef, dict[str, NDArray[np.uint8]]]]:
    """Colour frames of episode after episode, by camera, decoded ahead by `workers` threads."""
    cameras = dataset.schema.cameras if cameras is None else cameras
    waiting: list[tuple[EpisodeRef, Any]] = []
    with ThreadPoolExecutor(workers) as pool:
        for episode in episodes:
            job = pool.submit(lambda e: {c: load_images(dataset, e, c, stride=stride) for c in cameras}, episode)
            waiting.append((episode, job))
            if len(waiting) > 2 * workers:  # bounds the memory
                ready, first = waiting.pop(0)
                yield ready, first.result()
        for ready, job in waiting:
            yield ready, job.result()


def dataset_hash(root: Path) -> str:
    """Content hash for caches: changes with any row, label or video, not with the time or place of a copy.

    Videos enter by size and by their last 4 kB, which hold the size of every frame.
    """
    digest = hashlib.sha256(json.dumps(read_info(root), sort_keys=True).encode())
    labels = root / LABELS_PATH
    digest.update(labels.read_bytes() if labels.exists() else b"")
    for path in sorted((root / "data").rglob("*.parquet")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    for path in sorted((root / "videos").rglob("*.mp4")):
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, size - 4096))
            digest.update(f"{path.relative_to(root).as_posix()} {size}".encode() + file.read())
    return digest.hexdigest()[:16]


def _row_names(schema: Schema) -> list[str]:
    return [name for name, column in schema.columns.items() if not column.video and name not in INDEX_COLUMNS]


def _episode_rows(root: Path, schema: Schema) -> Iterator[dict[str, Any]]:
    names = ["episode_index", "tasks", "length", "data/chunk_index", "data/file_index"]
    for video in schema.video_columns:
        names += [f"videos/{video}/{field}" for field in ("chunk_index", "file_index", "from_timestamp")]
    paths = sorted((root / "meta/episodes").glob("*/*.parquet"))
    with ThreadPoolExecutor(4) as pool:
        for rows in pool.map(lambda path: _rows_of(path, names), paths):
            yield from rows


def _rows_of(path: Path, names: list[str]) -> list[dict[str, Any]]:
    try:
        return pq.ParquetFile(path).read(names, use_threads=False).to_pylist()
    except (OSError, ValueError):  # a damaged file: its episodes are missing, which the caller says
        return []


def _ref(
    root: Path, info: Mapping[str, Any], schema: Schema, row: Mapping[str, Any], labels: Mapping[int, EpisodeLabel]
) -> EpisodeRef:
    videos = {}
    for name in schema.video_columns:
        path = info["video_path"].format(
            video_key=name,
            chunk_index=row[f"videos/{name}/chunk_index"],
            file_index=row[f"videos/{name}/file_index"],
        )
        videos[name] = VideoRef(root / path, round(row[f"videos/{name}/from_timestamp"] * schema.fps))
    data = info["data_path"].format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
    index = row["episode_index"]
    return EpisodeRef(index, row["length"], row["tasks"][0], root / data, videos, labels.get(index))


def _load_file(path: Path, episodes: list[EpisodeRef], schema: Schema, names: list[str]) -> list[EpisodeArrays]:
    try:
        file = pq.ParquetFile(path)
        available = file.schema_arrow.names
        if missing := [name for name in names if name not in available]:
            raise DataError(f"{path}: no column {', '.join(missing)}; it has {', '.join(available)}")
        table = file.read(list({*names, "episode_index"}), use_threads=False)
    except (OSError, ValueError) as error:
        raise CorruptEpisode(f"{path}: rows cannot be read ({error})") from error
    index = table["episode_index"].to_numpy()
    values = {name: _to_numpy(table, name, schema) for name in names}
    loaded = []
    for episode in episodes:
        rows = index == episode.index
        if (found := int(rows.sum())) != episode.length:
            raise CorruptEpisode(f"{path}: {found} rows of episode {episode.index}, expected {episode.length}")
        loaded.append(EpisodeArrays(episode, {name: value[rows] for name, value in values.items()}))
    return loaded


def _to_numpy(table: Any, name: str, schema: Schema) -> NDArray[Any]:
    column, shape = table[name].combine_chunks(), schema.columns[name].shape
    flat = column.to_numpy(zero_copy_only=False) if shape == (1,) else column.flatten().to_numpy(zero_copy_only=False)
    return flat if shape == (1,) else flat.reshape(-1, *shape)


def _load_video(dataset: Dataset, episode: EpisodeRef, name: str, stride: int) -> NDArray[Any]:
    if name not in episode.videos:
        raise DataError(f"{dataset.root}: no images {name}; it has {', '.join(episode.videos) or 'none'}")
    video = episode.videos[name]
    column, fps = dataset.schema.columns[name], dataset.schema.fps
    return read_frames(video.path, column, fps, first=video.first_frame, count=episode.length, stride=stride)
