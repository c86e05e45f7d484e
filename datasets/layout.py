"""Where things lie in a LeRobot v3 dataset, and how a file gets there so that a kill or a power cut leaves it whole.

Paths are the format's public templates (`info.json` repeats them); `tests/datasets/test_round_trip.py` compares them
with LeRobot's own constants.
"""

import json
import os
from pathlib import Path
from typing import Any

from ..robot.errors import DataError

INFO_PATH = "meta/info.json"
STATS_PATH = "meta/stats.json"
TASKS_PATH = "meta/tasks.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
CHUNKS_SIZE = 1000  # files per folder, LeRobot's default

ARMFLOW_DIR = "meta/armflow"
LABELS_PATH = f"{ARMFLOW_DIR}/labels.jsonl"
CALIBRATION_DIR = f"{ARMFLOW_DIR}/calibration"
STAGING_DIR = f"{ARMFLOW_DIR}/staging"
LINEAGE_PATH = f"{ARMFLOW_DIR}/lineage.json"
LOCK_PATH = f"{ARMFLOW_DIR}/commit.lock"


def next_file(chunk_index: int, file_index: int, chunks_size: int) -> tuple[int, int]:
    """The (chunk, file) after this one, as LeRobot counts them."""
    return (chunk_index + 1, 0) if file_index == chunks_size - 1 else (chunk_index, file_index + 1)


def read_info(root: Path) -> dict[str, Any] | None:
    """`info.json`, or None if there is no dataset at `root` yet. Raises DataError if it is no v3 dataset."""
    path = root / INFO_PATH
    if not path.exists():
        return None
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); restore it from a copy of the dataset") from error
    version = str(info.get("codebase_version"))
    if not version.startswith("v3."):
        raise DataError(
            f"{path}: LeRobot format {version}, armflow reads v3.x; convert it with LeRobot's v2.1 to v3.0 script"
        )
    return info


def sync_file(path: Path) -> None:
    """Block until the file's content is on the disk."""
    _fsync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Block until the folder's entries (new names, renames) are on the disk."""
    _fsync(path, os.O_RDONLY | os.O_DIRECTORY)


def publish(staged: Path, target: Path, *, sync: bool = True) -> None:
    """Move a finished file to its final name at once; the target's folder is made if needed.

    With `sync` it is on the disk when this returns; without, a power cut may still lose it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if sync:
        sync_file(staged)
    os.replace(staged, target)
    if sync:
        sync_folder(target.parent)


def write_atomic(path: Path, text: str, *, sync: bool = True) -> None:
    """Replace `path` by `text`: after a kill the file holds either the old content or the new, never a part."""
    staged = path.with_name(f".{path.name}.new")
    path.parent.mkdir(parents=True, exist_ok=True)
    staged.write_text(text, encoding="utf-8")
    publish(staged, path, sync=sync)


def _fsync(path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
