"""What stands in the files of a LeRobot v3 dataset for one episode: rows, episode table, tasks and `info.json`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..robot.errors import CorruptEpisode
from .episode_stats import FeatureStats, column_stats
from .labels import EpisodeLabel, label_columns
from .layout import CHUNKS_SIZE, DATA_PATH, TASKS_PATH, VIDEO_PATH
from .schema import Schema
from .spool_file import SpoolEpisode
from .video import video_info

Place = tuple[int, int]
"""Chunk (folder) and file number."""


def check_rows(episode: SpoolEpisode) -> None:
    """Raise CorruptEpisode if the episode has no frames or a value that is not finite."""
    if len(episode) == 0:
        raise CorruptEpisode(f"{episode.path}: the episode has no frames")
    for name, column in episode.header.schema.row_columns.items():
        if column.dtype.startswith("float"):
            values = np.asarray(episode.rows[name]).reshape(len(episode), -1)
            if (bad := ~np.isfinite(values)).any():
                frame, entry = np.argwhere(bad)[0]
                what = column.names[entry] if column.names else name
                raise CorruptEpisode(f"{episode.path}: {name} of frame {frame} is not finite in {what}")


def episode_columns(
    episode: SpoolEpisode, label: EpisodeLabel, index: int, first_row: int, task_index: int
) -> dict[str, NDArray[Any]]:
    """Every column that is no video, in the order of the schema."""
    schema, n = episode.header.schema, len(episode)
    frames = np.arange(n)
    values: dict[str, NDArray[Any]] = {name: episode.rows[name] for name in schema.row_columns}
    values |= label_columns(label, n)
    values |= {
        "timestamp": (frames / schema.fps).astype(np.float32),
        "frame_index": frames,
        "episode_index": np.full(n, index),
        "index": first_row + frames,
        "task_index": np.full(n, task_index),
    }
    return {name: values[name] for name, column in schema.columns.items() if not column.video}


def write_columns(columns: dict[str, NDArray[Any]], path: Path) -> None:
    """Write (n,) and (n, d) columns as LeRobot stores them: scalars, and lists of fixed length."""
    arrays: dict[str, pa.Array] = {}
    for name, values in columns.items():
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        arrays[name] = flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    pq.write_table(pa.table(arrays), path, compression="snappy")


def episode_row(
    schema: Schema,
    n: int,
    task: str,
    index: int,
    first_row: int,
    places: Mapping[str, Place],
    first_frames: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The entry of an episode of `n` frames in `meta/episodes`: its extent and the files it is in.

    `first_frames`: where it starts in its video files, by column; None means at their beginning.
    """
    row: dict[str, Any] = {"episode_index": index, "tasks": [task], "length": n}
    row |= {"data/chunk_index": places["data"][0], "data/file_index": places["data"][1]}
    row |= {"dataset_from_index": first_row, "dataset_to_index": first_row + n}
    for name in schema.video_columns:
        start = first_frames[name] if first_frames is not None else 0
        row |= {
            f"videos/{name}/chunk_index": places[name][0],
            f"videos/{name}/file_index": places[name][1],
            f"videos/{name}/from_timestamp": start / schema.fps,
            f"videos/{name}/to_timestamp": (start + n) / schema.fps,
        }
    return row | {"meta/episodes/chunk_index": places["meta"][0], "meta/episodes/file_index": places["meta"][1]}


def write_episode_row(
    row: dict[str, Any], columns: dict[str, NDArray[Any]], image_stats: dict[str, FeatureStats], path: Path
) -> None:
    """Write an episode's row together with its statistics, which LeRobot's tools for cutting datasets need."""
    # Of scalars (indices, counters, times) nobody normalises: their statistics would double the size of this file.
    stats = {name: column_stats(values) for name, values in columns.items() if values.ndim > 1} | image_stats
    row = row | {f"stats/{name}/{key}": v.tolist() for name, feature in stats.items() for key, v in feature.items()}
    pq.write_table(pa.Table.from_pylist([row]), path, use_dictionary=False, write_statistics=False)


def empty_info(schema: Schema) -> dict[str, Any]:
    """`info.json` of a dataset without episodes."""
    features = {name: column.to_feature() for name, column in schema.columns.items()}
    for name, column in schema.video_columns.items():
        features[name]["info"] = video_info(column, schema.fps)
    return {
        "codebase_version": "v3.0",
        "fps": schema.fps,
        "features": features,
        "total_episodes": 0,
        "total_frames": 0,
        "total_tasks": 0,
        "chunks_size": CHUNKS_SIZE,
        # Smallest values LeRobot takes: if it appends to this dataset itself, it soon starts a new file.
        "data_files_size_in_mb": 1,
        "video_files_size_in_mb": 1,
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "robot_type": schema.robot,
        "splits": {},
    }


def read_tasks(root: Path) -> list[str]:
    """Instructions by task index; empty if there are none."""
    path = root / TASKS_PATH
    return [str(task) for task in pd.read_parquet(path).sort_values("task_index").index] if path.exists() else []


def write_tasks(tasks: list[str], path: Path) -> None:
    pd.DataFrame({"task_index": range(len(tasks))}, index=pd.Index(tasks, name="task")).to_parquet(path)
