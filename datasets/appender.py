"""Appending whole episodes to a LeRobot v3 dataset, each with files of its own, so that a kill at any point loses nothing.

The format's files are written directly, not through `LeRobotDataset`: that keeps one parquet writer open for the whole
session and its dataset is unreadable until it is closed. Everything of an episode is made in a staging folder, proven
by decoding, and then moved to its place in an order that leaves the dataset readable at every moment: videos, rows,
task, episode table, label, and at last `info.json`, whose `total_episodes` makes the episode exist. What was moved for
an episode that does not exist yet is overwritten when it is committed again.
"""

import fcntl
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow.parquet as pq

from ..robot.errors import CorruptEpisode, DataError
from .episode_stats import FeatureStats
from .labels import EpisodeLabel, LabelEntry, append_entry, episode_ids
from .layout import (
    CALIBRATION_DIR,
    DATA_PATH,
    EPISODES_PATH,
    INFO_PATH,
    LOCK_PATH,
    STAGING_DIR,
    TASKS_PATH,
    VIDEO_PATH,
    next_file,
    publish,
    read_info,
    write_atomic,
)
from .prove import encode_and_prove
from .schema import Schema, check_compatible, schema_from_info
from .spool_file import SpoolEpisode, calibration_hash
from .tables import (
    Place,
    check_rows,
    empty_info,
    episode_columns,
    episode_row,
    read_tasks,
    write_columns,
    write_episode_row,
    write_tasks,
)


@dataclass(frozen=True)
class CommitCfg:
    """How episodes are committed."""

    workers: int = 2
    """Streams encoded at the same time."""
    sync: bool = True
    """Wait for the disk. False survives a kill but not a power cut: for a twin, which can be run again."""


class DatasetBusy(DataError):
    """Another process appends to the dataset."""


class DatasetAppender:
    """Holds a dataset open for appending; one process at a time. Use as a context manager."""

    def __init__(self, root: Path, cfg: CommitCfg | None = None) -> None:
        """Raises DataError if `root` holds something else than a v3 dataset, DatasetBusy if another process appends."""
        self.root = root
        self._cfg = cfg or CommitCfg()
        self._lock = lock_dataset(root)
        self._info = read_info(root)
        self._tasks = read_tasks(root)
        self._places = _newest_places(root, self._info) if self._info is not None else None
        self._index_of = {id: index for index, id in episode_ids(root).items() if index < self.total_episodes}
        shutil.rmtree(root / STAGING_DIR, ignore_errors=True)  # of a killed predecessor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)

    @property
    def total_episodes(self) -> int:
        return int(self._info["total_episodes"]) if self._info is not None else 0

    def append(self, episode: SpoolEpisode) -> int:
        """Add a finished episode; it is durable when this returns its index. Does nothing if it is already there.

        Raises SchemaMismatch if dataset and episode disagree, CorruptEpisode if the recording or its video is damaged,
        OSError if the disk refuses.
        """
        header, label = episode.header, episode.label
        if header.episode_id in self._index_of:
            return self._index_of[header.episode_id]
        if label is None:
            raise CorruptEpisode(f"{episode.path}: the episode has no label; it was not saved")
        if self._info is not None:
            check_compatible(schema_from_info(self._info), header.schema)
        check_rows(episode)

        staging = self.root / STAGING_DIR / header.episode_id
        staging.mkdir(parents=True, exist_ok=True)
        image_stats = self._encode(episode, staging)
        index = self._publish(episode, label, staging, image_stats)
        shutil.rmtree(staging)
        self._index_of[header.episode_id] = index
        return index

    def _encode(self, episode: SpoolEpisode, staging: Path) -> dict[str, FeatureStats]:
        videos = episode.header.schema.video_columns
        with ThreadPoolExecutor(self._cfg.workers) as pool:  # encoders and decoders run without the interpreter's lock
            jobs = {name: pool.submit(encode_and_prove, episode, name, staging / f"{name}.mp4") for name in videos}
            return {name: job.result() for name, job in jobs.items()}

    def _publish(
        self, episode: SpoolEpisode, label: EpisodeLabel, staging: Path, image_stats: dict[str, FeatureStats]
    ) -> int:
        schema, index = episode.header.schema, self.total_episodes
        info = self._info or empty_info(schema)
        first_row = int(info["total_frames"])
        tasks = self._tasks if label.task in self._tasks else [*self._tasks, label.task]
        places = _places_after(self._places, schema, int(info["chunks_size"]))
        columns = episode_columns(episode, label, index, first_row, tasks.index(label.task))

        for name in schema.video_columns:
            target = VIDEO_PATH.format(video_key=name, chunk_index=places[name][0], file_index=places[name][1])
            self._move(staging / f"{name}.mp4", target)
        write_columns(columns, staging / "rows.parquet")
        self._move(staging / "rows.parquet", _at(DATA_PATH, places["data"]))
        if tasks != self._tasks:
            write_tasks(tasks, staging / "tasks.parquet")
            self._move(staging / "tasks.parquet", TASKS_PATH)
        row = episode_row(schema, len(episode), label.task, index, first_row, places)
        write_episode_row(row, columns, image_stats, staging / "episode.parquet")
        self._move(staging / "episode.parquet", _at(EPISODES_PATH, places["meta"]))
        self._store_calibration(episode)
        entry = LabelEntry.now(index, episode.header.episode_id, label, author=label.operator, reason="committed")
        append_entry(self.root, entry, sync=self._cfg.sync)

        info = info | {
            "total_episodes": index + 1,
            "total_frames": first_row + len(episode),
            "total_tasks": len(tasks),
            "splits": {"train": f"0:{index + 1}"},
        }
        write_atomic(self.root / INFO_PATH, json.dumps(info, indent=4), sync=self._cfg.sync)
        self._info, self._tasks, self._places = info, tasks, places
        return index

    def _move(self, staged: Path, target: str) -> None:
        publish(staged, self.root / target, sync=self._cfg.sync)

    def _store_calibration(self, episode: SpoolEpisode) -> None:
        calibration = episode.header.calibration
        path = self.root / CALIBRATION_DIR / f"{calibration_hash(calibration)}.json"
        if calibration and not path.exists():
            values = {camera: json.loads(text) for camera, text in calibration.items()}
            write_atomic(path, json.dumps(values, indent=2), sync=self._cfg.sync)


def _newest_places(root: Path, info: dict[str, Any]) -> dict[str, Place] | None:
    """Files of the newest episode; None if there is no episode."""
    newest = int(info["total_episodes"]) - 1
    if newest < 0:
        return None
    for path in sorted((root / "meta/episodes").glob("*/*.parquet"), reverse=True):
        names = [name for name in pq.read_schema(path).names if not name.startswith("stats/")]
        for row in pq.ParquetFile(path).read(names).to_pylist():
            if row["episode_index"] == newest:
                kinds = (name.removesuffix("/chunk_index") for name in names if name.endswith("/chunk_index"))
                return {_short(kind): (row[f"{kind}/chunk_index"], row[f"{kind}/file_index"]) for kind in kinds}
    raise DataError(f"{root}: info.json counts {newest + 1} episodes, but meta/episodes has no episode {newest}")


def _places_after(newest: dict[str, Place] | None, schema: Schema, chunks_size: int) -> dict[str, Place]:
    """Files of the next episode: `data`, `meta` (its row in the episode table) and every video column."""
    kinds = ("data", "meta", *schema.video_columns)
    return {kind: next_file(*newest[kind], chunks_size) if newest is not None else (0, 0) for kind in kinds}


def _short(kind: str) -> str:
    return "meta" if kind == "meta/episodes" else kind.removeprefix("videos/")


def _at(template: str, place: Place) -> str:
    return template.format(chunk_index=place[0], file_index=place[1])


def lock_dataset(root: Path) -> int:
    """Keep every other process from appending to the dataset until the descriptor returned is closed. Raises DataError."""
    path = root / LOCK_PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise DatasetBusy(f"{root}: another process is committing to this dataset; wait for it or stop it") from error
    return fd
