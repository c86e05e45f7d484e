"""Episodes as robomimic stores them: many in one HDF5 file, `data/demo_N/obs/...` and `data/demo_N/actions`.

Its usual actions are tool displacements, which are no joint targets: `actions="next-state"` takes the joints of the next
frame instead. Files need the joints among their observations (`robot0_joint_pos`).
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ..robot.errors import CorruptEpisode, DataError
from .import_source import SourceEpisode, SourceMap, dataset, next_states, open_source, read, split, vectors

Demo = tuple[Path, str]
"""File and name of the demonstration in it."""


def find_robomimic(sources: Sequence[Path]) -> list[Demo]:
    """Every demonstration of every file, in the order of their numbers. Raises DataError if a file has none."""
    found: list[Demo] = []
    for path in sources:
        with open_source(path) as file:
            data = file.get("data")
            names = [str(name) for name in data] if isinstance(data, h5py.Group) else []
            names = [name for name in names if name.startswith("demo_")]
            if not names:
                raise DataError(f"{path}: no data/demo_0, ...; expected a robomimic file, it has: {', '.join(file)}")
            found += [(path, name) for name in sorted(names, key=lambda name: (len(name), name))]
    return found


def read_robomimic(demo: Demo, cfg: SourceMap) -> SourceEpisode:
    path, name = demo
    group, what = f"data/{name}", f"{path}: {name}"
    with open_source(path) as file:
        joints = read(file, path, f"{group}/obs/robot0_joint_pos")
        fingers = read(file, path, f"{group}/obs/robot0_gripper_qpos")
        state = vectors(joints, fingers, cfg.gripper, cfg.arm, what)
        if cfg.actions == "next-state":
            action = next_states(state)
        else:
            recorded = split(read(file, path, f"{group}/actions"), cfg.arm, f"{what}/actions")
            action = vectors(*recorded, cfg.action_gripper, cfg.arm, f"{what}/actions")
        keys = {ours: f"{group}/obs/{theirs}" for ours, theirs in cfg.cameras.items()}
        shapes = {ours: dataset(file, path, key).shape for ours, key in keys.items()}
        if wrong := [key for key in keys if len(shapes[key]) != 4 or shapes[key][0] != len(state)] or len(
            action
        ) != len(state):
            raise CorruptEpisode(
                f"{what}: {len(state)} states, but {len(action)} actions and images {shapes} ({wrong})"
            )
        velocity = f"{group}/obs/robot0_joint_vel"
        rewards = f"{group}/rewards"
        return SourceEpisode(
            name=f"{path.name} {name}",
            state=state,
            action=action,
            velocity=np.asarray(file[velocity], np.float32) if velocity in file else None,
            effort=None,
            images={ours: partial(_frames, path, key, cfg.blue_first) for ours, key in keys.items()},
            sizes={ours: (shape[1], shape[2]) for ours, shape in shapes.items()},
            task=cfg.task,
            success=bool((np.asarray(file[rewards]) > 0).any()) if rewards in file else None,
        )


def _frames(path: Path, key: str, blue_first: bool) -> Iterator[NDArray[np.uint8]]:
    with open_source(path) as file:
        for image in dataset(file, path, key):
            yield image[..., ::-1] if blue_first else image
