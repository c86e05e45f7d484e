"""A new dataset from episodes of others: videos are copied as they are, rows and index are written anew.

Labels come along with their whole history, calibrations too, and `meta/armflow/lineage.json` says where everything is
from. LeRobot's own tools for this know none of that, and average the episodes' quantiles.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..robot.errors import SchemaMismatch
from .episode_stats import FeatureStats, image_stats
from .episodes import Dataset, EpisodeArrays, EpisodeRef, dataset_hash, load_episodes
from .labels import LabelEntry, append_entry, label_columns, read_entries
from .layout import (
    CALIBRATION_DIR,
    CHUNKS_SIZE,
    DATA_PATH,
    EPISODES_PATH,
    INFO_PATH,
    LINEAGE_PATH,
    TASKS_PATH,
    VIDEO_PATH,
    next_file,
    read_info,
    write_atomic,
)
from .pooled import stored_image_stats, write_pooled_stats
from .prove import STATS_FRAMES
from .schema import check_compatible
from .tables import Place, empty_info, episode_row, write_columns, write_episode_row, write_tasks
from .video import read_frames

Advance = Callable[[int, int], None]
"""Called with episodes done and episodes in all."""
ENCODING = ("video.codec", "video.pix_fmt", "video.depth_min", "video.depth_max", "video.shift", "video.use_log")
"""What a reader must know of a stream; a dataset states it once."""


@dataclass(frozen=True)
class Part:
    """Episodes to take from a dataset, in this order."""

    dataset: Dataset
    episodes: tuple[EpisodeRef, ...]


def assemble(root: Path, parts: Sequence[Part], made_by: str, advance: Advance = lambda *_: None) -> None:
    """Write a dataset of the episodes of `parts` into the empty folder `root`, statistics included.

    Nothing is synced; sources stay untouched. Raises SchemaMismatch if the parts disagree, CorruptEpisode if rows are
    missing.
    """
    check_parts(parts)
    writer, total, done = _Writer(root, parts[0].dataset), sum(len(part.episodes) for part in parts), 0
    for part in parts:
        stored, entries = stored_image_stats(part.dataset.root, part.dataset.schema), _histories(part.dataset.root)
        names = [name for name, column in part.dataset.schema.columns.items() if not column.video]
        for arrays in load_episodes(part.dataset, part.episodes, names):
            index = arrays.ref.index
            writer.add(part.dataset, arrays, stored.get(index, {}), entries.get(index, ()))
            advance(done := done + 1, total)
        for path in sorted((part.dataset.root / CALIBRATION_DIR).glob("*.json")):  # named by content
            _copy(path, root / CALIBRATION_DIR / path.name)
    writer.finish()
    write_lineage(root, made_by, parts)
    if total:
        write_pooled_stats(root)


def check_parts(parts: Sequence[Part]) -> None:
    """Raise SchemaMismatch, listing every difference, if datasets cannot become one."""
    first = parts[0].dataset
    if other := [
        n for n, c in first.schema.columns.items() if not c.dtype.startswith(("float", "int", "bool", "video"))
    ]:
        raise SchemaMismatch(
            f"{first.root}: columns {', '.join(other)} are neither numbers nor videos; they cannot be copied"
        )
    for part in parts[1:]:
        try:
            check_compatible(part.dataset.schema, first.schema)
        except SchemaMismatch as error:
            raise SchemaMismatch(f"{part.dataset.root} does not fit {first.root}: {error}") from error
        differences = [
            f"{name} {key}: {ours.get(key)} and {theirs.get(key)}"
            for name in first.schema.video_columns
            for ours, theirs in [(_video_info(first, name), _video_info(part.dataset, name))]
            for key in ENCODING
            if ours.get(key) != theirs.get(key)
        ]
        if differences:
            raise SchemaMismatch(
                f"{first.root} and {part.dataset.root} encode images differently: {'; '.join(differences)}. "
                "One dataset can state only one encoding; keep them apart"
            )


def write_lineage(root: Path, made_by: str, parts: Sequence[Part], **more: Any) -> None:
    """`meta/armflow/lineage.json`: the sources by name and content, and which of their episodes were taken."""
    sources = [
        {
            "name": part.dataset.root.absolute().name,
            "hash": dataset_hash(part.dataset.root),
            "episodes": [ref.index for ref in part.episodes],
            "lineage": _read_json(part.dataset.root / LINEAGE_PATH),
        }
        for part in parts
    ]
    lineage = {"made_by": made_by, "made": datetime.now(UTC).isoformat(), "sources": sources, **more}
    write_atomic(root / LINEAGE_PATH, json.dumps(lineage, indent=2), sync=False)


class _Writer:
    """Writes episode after episode; `finish` makes them a dataset."""

    def __init__(self, root: Path, like: Dataset) -> None:
        self._root, self._schema = root, like.schema
        features = (read_info(like.root) or {})["features"]
        self._info = empty_info(like.schema) | {"features": features}
        self._tasks: list[str] = []
        self._episodes = self._rows = 0
        self._next: dict[str, Place] = {}  # free file by kind: `data`, `meta` and video columns
        self._copied: dict[Path, Place] = {}  # source video file to its place here

    def add(
        self, dataset: Dataset, arrays: EpisodeArrays, stored: Mapping[str, FeatureStats], history: Sequence[LabelEntry]
    ) -> None:
        ref = arrays.ref
        if ref.task not in self._tasks:
            self._tasks.append(ref.task)
        columns = self._columns(arrays)
        places = {"data": self._take("data"), "meta": self._take("meta")}
        for name in self._schema.video_columns:
            places[name] = self._video(name, ref.videos[name].path)
        self._write(columns, places["data"])
        image = {n: stored.get(n) or _image_stats(dataset, ref, n) for n in self._schema.video_columns}
        starts = {name: ref.videos[name].first_frame for name in self._schema.video_columns}
        row = episode_row(self._schema, len(arrays), ref.task, self._episodes, self._rows, places, starts)
        path = self._root / _at(EPISODES_PATH, places["meta"])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_episode_row(row, columns, image, path)
        for entry in history:
            append_entry(self._root, replace(entry, episode_index=self._episodes), sync=False)
        self._episodes, self._rows = self._episodes + 1, self._rows + len(arrays)

    def finish(self) -> None:
        (self._root / "meta").mkdir(parents=True, exist_ok=True)
        write_tasks(self._tasks, self._root / TASKS_PATH)
        totals = {
            "total_episodes": self._episodes,
            "total_frames": self._rows,
            "total_tasks": len(self._tasks),
            "splits": {"train": f"0:{self._episodes}"},
        }
        write_atomic(self._root / INFO_PATH, json.dumps(self._info | totals, indent=4), sync=False)

    def _columns(self, arrays: EpisodeArrays) -> dict[str, NDArray[Any]]:
        """Rows as they will stand here: new indices, and the columns that follow from the newest label."""
        n = len(arrays)
        frames = np.arange(n)
        values = dict(arrays.columns)
        if arrays.ref.label is not None:
            values |= {k: v for k, v in label_columns(arrays.ref.label, n).items() if k in values}
        return values | {
            "timestamp": (frames / self._schema.fps).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(n, self._episodes),
            "index": self._rows + frames,
            "task_index": np.full(n, self._tasks.index(arrays.ref.task)),
        }

    def _write(self, columns: dict[str, NDArray[Any]], place: Place) -> None:
        path = self._root / _at(DATA_PATH, place)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_columns(columns, path)

    def _video(self, name: str, source: Path) -> Place:
        """Copy a video file once, however many episodes are in it."""
        if source not in self._copied:
            place = self._take(name)
            target = VIDEO_PATH.format(video_key=name, chunk_index=place[0], file_index=place[1])
            _copy(source, self._root / target)
            self._copied[source] = place
        return self._copied[source]

    def _take(self, kind: str) -> Place:
        place = self._next.get(kind, (0, 0))
        self._next[kind] = next_file(*place, CHUNKS_SIZE)
        return place


def _histories(root: Path) -> dict[int, list[LabelEntry]]:
    """Journal of every episode. Lines of a recording that never became this episode are left out."""
    by_episode: dict[int, list[LabelEntry]] = {}
    for entry in read_entries(root):
        by_episode.setdefault(entry.episode_index, []).append(entry)
    return {i: [e for e in found if e.episode_id == found[-1].episode_id] for i, found in by_episode.items()}


def _image_stats(dataset: Dataset, ref: EpisodeRef, name: str) -> FeatureStats:
    video, schema = ref.videos[name], dataset.schema
    stride = -(-ref.length // STATS_FRAMES)
    frames = read_frames(
        video.path, schema.columns[name], schema.fps, first=video.first_frame, count=ref.length, stride=stride
    )
    return image_stats(frames, len(frames))


def _video_info(dataset: Dataset, name: str) -> dict[str, Any]:
    return (read_info(dataset.root) or {})["features"][name].get("info") or {}


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _at(template: str, place: Place) -> str:
    return template.format(chunk_index=place[0], file_index=place[1])


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
