"""A dataset in LeRobot's format v2.1, which openpi reads: a parquet and a video file per episode, tables as JSON lines.

    meta/info.json                                       codebase_version v2.1, totals, features, path templates
    meta/tasks.jsonl                                     {"task_index", "task"}
    meta/episodes.jsonl                                  {"episode_index", "tasks", "length"}
    meta/episodes_stats.jsonl                            {"episode_index", "stats": {column: {min, max, mean, std, count}}}
    data/chunk-000/episode_000000.parquet                rows
    videos/chunk-000/COLUMN/episode_000000.mp4           colour; copied where they are ours and hold this episode alone

v2.1 has no depth video: depth streams are left out. It pools statistics from those of the episodes, so it has no
quantiles; openpi computes its own from the rows.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .assemble import Part, write_lineage
from .episode_stats import FeatureStats, column_stats, image_stats
from .episodes import Dataset, EpisodeArrays, EpisodeRef, load_episodes
from .labels import label_columns
from .layout import CHUNKS_SIZE, INFO_PATH, read_info
from .new_folder import new_folder
from .prove import STATS_FRAMES
from .schema import Column, Schema
from .tables import write_columns
from .video import encode, read_frames, rgb_encoder

DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
STATS = ("min", "max", "mean", "std", "count")


def export_lerobot21(
    dataset: Dataset, episodes: Sequence[EpisodeRef], out: Path, advance: Callable[[int, int], None] = lambda *_: None
) -> None:
    """Write `episodes` into the new folder `out`. Raises DataError if it exists, CorruptEpisode if frames are missing."""
    colour = {name: column for name, column in dataset.schema.video_columns.items() if not column.depth}
    ours = {name for name, column in colour.items() if _stated(dataset, name) == _encoding(column)}
    users = Counter(video.path for ref in dataset.episodes for video in ref.videos.values())
    tasks = list(dict.fromkeys(ref.task for ref in episodes))
    names = [name for name, column in dataset.schema.columns.items() if not column.video]
    rows, table, stats = 0, [], []
    with new_folder(out) as staged:
        for index, arrays in enumerate(load_episodes(dataset, episodes, names)):
            ref = arrays.ref
            columns = _columns(arrays, dataset.schema, index, rows, tasks.index(ref.task))
            write_columns(columns, _made(staged / _at(DATA_PATH, index)))
            found = {name: column_stats(values) for name, values in columns.items()}
            for name, column in colour.items():
                target = _made(staged / _at(VIDEO_PATH, index, name))
                found[name] = _video(
                    dataset, ref, name, column, target, alone=users[ref.videos[name].path] == 1 and name in ours
                )
            table.append({"episode_index": index, "tasks": [ref.task], "length": len(arrays)})
            stats.append({"episode_index": index, "stats": {name: _lists(value) for name, value in found.items()}})
            rows += len(arrays)
            advance(index + 1, len(episodes))
        info = _info(dataset.schema, len(episodes), rows, len(tasks))
        _made(staged / INFO_PATH).write_text(json.dumps(info, indent=4), encoding="utf-8")
        _write_lines(staged / "meta/tasks.jsonl", ({"task_index": i, "task": task} for i, task in enumerate(tasks)))
        _write_lines(staged / "meta/episodes.jsonl", table)
        _write_lines(staged / "meta/episodes_stats.jsonl", stats)
        write_lineage(staged, "export to LeRobot v2.1", [Part(dataset, tuple(episodes))])


def _columns(
    arrays: EpisodeArrays, schema: Schema, index: int, first_row: int, task_index: int
) -> dict[str, NDArray[Any]]:
    n = len(arrays)
    values = dict(arrays.columns)
    if arrays.ref.label is not None:
        values |= {k: v for k, v in label_columns(arrays.ref.label, n).items() if k in values}
    return values | {
        "timestamp": (np.arange(n) / schema.fps).astype(np.float32),
        "frame_index": np.arange(n),
        "episode_index": np.full(n, index),
        "index": first_row + np.arange(n),
        "task_index": np.full(n, task_index),
    }


def _video(dataset: Dataset, ref: EpisodeRef, name: str, column: Column, target: Path, *, alone: bool) -> FeatureStats:
    """Write the stream's file and return its statistics. What shares a file or is of another codec is encoded again."""
    video, fps = ref.videos[name], dataset.schema.fps
    if alone and video.first_frame == 0:
        stride = -(-ref.length // STATS_FRAMES)
        frames = read_frames(video.path, column, fps, first=0, count=ref.length, stride=stride)
        shutil.copyfile(video.path, target)
    else:
        frames = read_frames(video.path, column, fps, first=video.first_frame, count=ref.length)
        encode(target, [frames], column, fps)
    return image_stats(frames, len(frames))


def _info(schema: Schema, episodes: int, frames: int, tasks: int) -> dict[str, Any]:
    features = {name: _feature(column, schema.fps) for name, column in schema.columns.items() if not column.depth}
    return {
        "codebase_version": "v2.1",
        "robot_type": schema.robot,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "total_videos": episodes * len(schema.cameras),
        "total_chunks": -(-episodes // CHUNKS_SIZE),
        "chunks_size": CHUNKS_SIZE,
        "fps": schema.fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": features,
    }


def _feature(column: Column, fps: int) -> dict[str, Any]:
    feature = column.to_feature()
    if column.video:
        (codec, pix_fmt), (height, width, channels) = _encoding(column), column.shape
        feature["info"] = {
            "video.height": height,
            "video.width": width,
            "video.codec": codec,
            "video.pix_fmt": pix_fmt,
            "video.is_depth_map": False,
            "video.fps": fps,
            "video.channels": channels,
            "has_audio": False,
        }
    return feature


def _encoding(column: Column) -> tuple[str, str]:
    """Codec and pixel format as we encode."""
    encoder = rgb_encoder(column)
    return encoder["vcodec"], encoder["pix_fmt"]


def _stated(dataset: Dataset, name: str) -> tuple[str, str]:
    """Codec and pixel format as the dataset states them."""
    info = (read_info(dataset.root) or {})["features"][name].get("info") or {}
    return info.get("video.codec", ""), info.get("video.pix_fmt", "")


def _lists(stats: FeatureStats) -> dict[str, Any]:
    return {key: stats[key].tolist() for key in STATS}


def _write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _at(template: str, index: int, video_key: str = "") -> str:
    return template.format(episode_chunk=index // CHUNKS_SIZE, episode_index=index, video_key=video_key)


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
