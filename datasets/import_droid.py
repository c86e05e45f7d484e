"""Episodes as DROID stores them: a folder each, `trajectory.h5`, `recordings/MP4/SERIAL.mp4`, `metadata_*.json`.

Cameras are named by serial number, or as the metadata calls them: `wrist`, `ext1`, `ext2`.
"""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from ..robot.errors import CorruptEpisode, DataError
from .import_source import SourceEpisode, SourceMap, next_states, open_source, read, vectors

TRAJECTORY = "trajectory.h5"
ROBOT = "observation/robot_state"


def find_droid(sources: Sequence[Path]) -> list[Path]:
    """Folders of episodes: those named, and all below them."""
    found = {file.parent for source in sources for file in source.rglob(TRAJECTORY)}
    found |= {source.parent for source in sources if source.name == TRAJECTORY}
    if not found:
        raise DataError(f"no {TRAJECTORY} in {', '.join(map(str, sources))}; name folders of DROID episodes")
    return sorted(found)


def read_droid(folder: Path, cfg: SourceMap) -> SourceEpisode:
    path, metadata = folder / TRAJECTORY, _metadata(folder)
    with open_source(path) as file:
        joints, gripper = read(file, path, f"{ROBOT}/joint_positions"), read(file, path, f"{ROBOT}/gripper_position")
        state = vectors(joints, gripper, cfg.gripper, cfg.arm, f"{path}: {ROBOT}")
        if cfg.actions == "next-state":
            action = next_states(state)
        else:
            joints, gripper = read(file, path, "action/joint_position"), read(file, path, "action/gripper_position")
            action = vectors(joints, gripper, cfg.action_gripper, cfg.arm, f"{path}: action")
        velocity, effort = f"{ROBOT}/joint_velocities", f"{ROBOT}/joint_torques_computed"
        videos = {ours: _video(folder, theirs, metadata) for ours, theirs in cfg.cameras.items()}
        return SourceEpisode(
            name=folder.name,
            state=state,
            action=action,
            velocity=np.asarray(file[velocity], np.float32) if velocity in file else None,
            effort=np.asarray(file[effort], np.float32) if effort in file else None,
            images={ours: partial(_frames, video) for ours, video in videos.items()},
            sizes={ours: _size(video) for ours, video in videos.items()},
            task=str(metadata.get("current_task") or cfg.task),
            success=metadata.get("success"),
        )


def _metadata(folder: Path) -> dict[str, Any]:
    files = sorted(folder.glob("metadata_*.json"))
    return json.loads(files[0].read_text(encoding="utf-8")) if files else {}


def _video(folder: Path, name: str, metadata: dict[str, Any]) -> Path:
    serial = str(metadata.get(f"{name}_cam_serial", name))
    path = folder / "recordings/MP4" / f"{serial}.mp4"
    if not path.exists():
        there = ", ".join(sorted(file.stem for file in path.parent.glob("*.mp4")))
        raise DataError(f"{folder}: no video of camera {name} ({path.name}); there is: {there or 'none'}")
    return path


def _size(path: Path) -> tuple[int, int]:
    first = next(_frames(path), None)
    if first is None:
        raise CorruptEpisode(f"{path}: a video without frames")
    return first.shape[0], first.shape[1]


def _frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    except (av.error.FFmpegError, IndexError) as error:
        raise CorruptEpisode(f"{path}: not a readable video ({error})") from error
