"""An episode of somebody else's dataset, in our terms: what a reader of a format makes, and the mapping it follows.

Only what was recorded is taken over. A column the source does not have is absent from the dataset, not filled with zeros.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from ..robot.errors import ConfigError, CorruptEpisode, DataError
from ..robot.types import ArmSpec
from .labels import Outcome

GRIPPER_SLACK = 0.05  # of the range, beyond its ends; more means another scale

Floats = NDArray[np.float32]
Frames = Callable[[], Iterator[NDArray[np.uint8]]]
"""All images of a camera in order, (h, w, 3) red first, read while they are asked for."""
Ends = tuple[float, float]
"""The source's gripper values when closed and when open."""


@dataclass(frozen=True)
class SourceMap:
    """How a source's numbers and cameras become ours. Nothing in it is guessed."""

    arm: ArmSpec
    fps: int
    cameras: Mapping[str, str]  # our name -> the source's
    task: str  # the instruction, if the source has none
    outcome: Outcome | None  # None: as the source says
    gripper: Ends  # in states
    action_gripper: Ends  # in actions
    actions: Literal["recorded", "next-state"] = "recorded"
    blue_first: bool = False

    def __post_init__(self) -> None:
        for closed, opened in (self.gripper, self.action_gripper):
            if closed == opened:
                raise ConfigError(f"gripper {closed} closed and {opened} open: the two must differ")


@dataclass(frozen=True, eq=False)
class SourceEpisode:
    """One episode, read except for its images."""

    name: str  # of the file, for the notes
    state: Floats  # (n, dof + 1) rad, gripper opening 0..1
    action: Floats  # (n, dof + 1) absolute joint targets, rad, gripper opening 0..1
    velocity: Floats | None  # (n, dof) rad/s
    effort: Floats | None  # (n, dof) N m
    images: Mapping[str, Frames]  # by our camera name
    sizes: Mapping[str, tuple[int, int]]  # height and width
    task: str
    success: bool | None  # None: the source does not say


def read(file: h5py.File, path: Path, key: str) -> NDArray[Any]:
    """An array of the file. Raises DataError that lists what there is instead."""
    return dataset(file, path, key)[()]


def dataset(file: h5py.File, path: Path, key: str) -> h5py.Dataset:
    item = file.get(key)
    if not isinstance(item, h5py.Dataset):
        parent = file.get(key.rpartition("/")[0] or "/")
        there = ", ".join(parent) if isinstance(parent, h5py.Group) else ", ".join(file)
        raise DataError(f"{path}: no array {key}; beside it there is: {there or 'nothing'}")
    return item


def open_source(path: Path) -> h5py.File:
    """Raises CorruptEpisode if the file is damaged, DataError if it is not there."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise CorruptEpisode(f"{path}: not a readable HDF5 file ({error})") from error


def vectors(joints: NDArray[Any], gripper: NDArray[Any], ends: Ends, arm: ArmSpec, what: str) -> Floats:
    """Joints (n, dof) and gripper (n,) as (n, dof + 1), the gripper as opening. Raises DataError on another size or scale."""
    if joints.ndim != 2 or joints.shape[1] != arm.dof:
        raise DataError(
            f"{what}: {joints.shape[-1]} joints, armflow imports data of one {arm.dof}-joint arm ({arm.name}); data of two "
            "arms, of other arms or of tool poses cannot be turned into its joint targets"
        )
    closed, opened = ends
    opening = (np.asarray(gripper, np.float64).reshape(len(joints), -1)[:, 0] - closed) / (opened - closed)
    if opening.min() < -GRIPPER_SLACK or opening.max() > 1 + GRIPPER_SLACK:
        raise DataError(
            f"{what}: gripper values from {np.min(gripper):.3f} to {np.max(gripper):.3f} do not lie between {closed} (closed) "
            f"and {opened} (open); say with --gripper or --action-gripper what closed and open are"
        )
    return np.column_stack([joints, np.clip(opening, 0, 1)]).astype(np.float32)


def split(values: NDArray[Any], arm: ArmSpec, what: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """(n, dof + 1) into joints and gripper. Raises DataError if it is something else."""
    if values.ndim != 2 or values.shape[1] != arm.dof + 1:
        raise DataError(
            f"{what} has {values.shape[-1]} numbers per frame, expected {arm.dof} joints and a gripper of one arm; data of "
            "two arms or of tool poses cannot be imported. If only the actions are of another kind, --actions next-state "
            "takes the joints of the next frame as targets"
        )
    return values[:, :-1], values[:, -1]


def next_states(state: Floats) -> Floats:
    """Targets for a source whose actions are no joint targets: where the arm was one frame later."""
    return np.concatenate([state[1:], state[-1:]])
