"""The columns of an armflow dataset, derived from the rig, and the check that two of them agree.

Every boundary compares schemas by name and order: a dataset with another joint order looks fine until the arm moves.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..robot.errors import ConfigError, DataError, SchemaMismatch
from ..robot.types import ArmSpec, CameraSpec

IMAGES = "observation.images."
DEPTH_SUFFIX = "_depth"

INDEX_COLUMNS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""Columns LeRobot adds to every dataset."""
LABEL_COLUMNS = ("next.reward", "next.done", "next.success")
"""Columns that follow from the episode's label; they are unknown while it is being recorded."""


@dataclass(frozen=True)
class Column:
    """One LeRobot feature. `names` is None for scalars."""

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None = None
    depth: bool = False

    @property
    def video(self) -> bool:
        return self.dtype == "video"

    def to_feature(self) -> dict[str, Any]:
        """As it stands in `info.json`, without the codec's details."""
        feature: dict[str, Any] = {
            "dtype": self.dtype,
            "shape": list(self.shape),
            "names": list(self.names) if self.names is not None else None,
        }
        if self.video:
            feature["info"] = {"is_depth_map": self.depth}
        return feature


@dataclass(frozen=True)
class Schema:
    """Robot, rate and columns (in the order they are stored) of a dataset."""

    robot: str
    fps: int
    columns: Mapping[str, Column]

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the entries of `action` and `observation.state`: `joint1.pos` ... `gripper.pos`."""
        return self.columns["action"].names or ()

    @property
    def video_columns(self) -> dict[str, Column]:
        return {name: column for name, column in self.columns.items() if column.video}

    @property
    def row_columns(self) -> dict[str, Column]:
        """What one recorded step holds beside images: no label columns, no LeRobot indices."""
        skip = (*INDEX_COLUMNS, *LABEL_COLUMNS)
        return {name: column for name, column in self.columns.items() if not column.video and name not in skip}

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the colour cameras."""
        return tuple(name.removeprefix(IMAGES) for name, column in self.video_columns.items() if not column.depth)

    @property
    def depth_cameras(self) -> tuple[str, ...]:
        """Names of the cameras whose depth is recorded."""
        names = (name.removeprefix(IMAGES) for name, column in self.video_columns.items() if column.depth)
        return tuple(name.removesuffix(DEPTH_SUFFIX) for name in names)

    def to_json(self) -> str:
        features = {name: column.to_feature() for name, column in self.columns.items()}
        return json.dumps({"robot_type": self.robot, "fps": self.fps, "features": features})


def make_schema(
    arm: ArmSpec, cameras: Iterable[CameraSpec], fps: float, *, depth: Collection[str] | None = None
) -> Schema:
    """Columns for an arm and its cameras, recorded at `fps` Hz.

    `depth` names the cameras whose depth is recorded; None means all. Raises ConfigError if the rate is not a whole
    number (LeRobot stores an integer) or a camera's name cannot be a column.
    """
    if fps != int(fps) or fps <= 0:
        raise ConfigError(f"recording rate {fps} Hz: LeRobot datasets need a whole number of frames per second")
    cameras = tuple(cameras)
    _check_camera_names([camera.name for camera in cameras], depth)

    positions = Column("float32", (arm.dof + 1,), arm.action_names)
    speeds = Column("float32", (arm.dof,), tuple(f"{name}.vel" for name in arm.joint_names))
    efforts = Column("float32", (arm.dof,), tuple(f"{name}.effort" for name in arm.joint_names))
    columns = {
        "observation.state": positions,
        "action": positions,
        "action.requested": positions,
        "observation.velocity": speeds,
        "observation.effort": efforts,
    }
    for camera in cameras:
        size = (camera.height, camera.width)
        columns[IMAGES + camera.name] = Column("video", (*size, 3), ("height", "width", "channels"))
        if depth is None or camera.name in depth:
            columns[IMAGES + camera.name + DEPTH_SUFFIX] = Column(
                "video", (*size, 1), ("height", "width", "channels"), depth=True
            )
    columns |= {
        "next.reward": Column("float32", (1,)),
        "next.done": Column("bool", (1,)),
        "next.success": Column("bool", (1,)),
    }
    columns |= {name: Column("int64", (1,)) for name in ("control_mode", "safety_flags", "chunk_index", "chunk_step")}
    columns["capture_time.arm"] = Column("float64", (1,))
    for camera in cameras:
        columns[f"capture_time.{camera.name}"] = Column("float64", (1,))
        columns[f"frame_number.{camera.name}"] = Column("int64", (1,))
    columns["timestamp"] = Column("float32", (1,))
    columns |= {name: Column("int64", (1,)) for name in INDEX_COLUMNS[1:]}
    return Schema(robot=arm.name, fps=int(fps), columns=columns)


def schema_from_info(info: Mapping[str, Any]) -> Schema:
    """Read a schema from a parsed `info.json` or from `Schema.to_json`. Raises DataError if it lacks what is needed."""
    try:
        return Schema(
            robot=str(info["robot_type"]),
            fps=int(info["fps"]),
            columns={name: _column(feature) for name, feature in info["features"].items()},
        )
    except KeyError as error:
        raise DataError(f"dataset description has no {error}; expected robot_type, fps and features") from error


def check_compatible(found: Schema, expected: Schema, *, allow_extra: bool = False) -> None:
    """Raise SchemaMismatch, listing every difference, unless the two agree.

    `allow_extra` accepts columns of `found` that nobody asked for (a policy reads a few columns of a dataset).
    """
    problems = list(_differences(found, expected, allow_extra))
    if problems:
        listing = "\n".join(f"  - {problem}" for problem in problems)
        raise SchemaMismatch(
            f"the data do not have the expected schema:\n{listing}\n"
            "Use a dataset recorded on this rig, or start a new dataset folder for the new one."
        )


def _differences(found: Schema, expected: Schema, allow_extra: bool) -> Iterable[str]:
    if found.robot != expected.robot:
        yield f"robot: found {found.robot}, expected {expected.robot}"
    if found.fps != expected.fps:
        yield f"fps: found {found.fps}, expected {expected.fps}"
    for name, column in expected.columns.items():
        if name in found.columns:
            yield from _column_differences(name, found.columns[name], column)
        else:
            yield f"{_kind(name)} is missing"
    if not allow_extra:
        yield from (f"{_kind(name)} is not expected" for name in found.columns if name not in expected.columns)


def _column_differences(name: str, found: Column, expected: Column) -> Iterable[str]:
    if found.dtype != expected.dtype:
        yield f"{name}: found {found.dtype}, expected {expected.dtype}"
    if found.depth != expected.depth:
        yield f"{name}: found {'depth' if found.depth else 'colour'}, expected {'depth' if expected.depth else 'colour'}"
    if found.shape != expected.shape:
        yield f"{name}: found size {_size(found.shape)}, expected {_size(expected.shape)}"
    if not expected.video and found.names != expected.names:
        same = sorted(found.names or ()) == sorted(expected.names or ())
        what = "order of entries" if same else "names of entries"
        yield f"{name}: {what}: found {_listed(found.names)}, expected {_listed(expected.names)}"


def _check_camera_names(names: list[str], depth: Collection[str] | None) -> None:
    bad = [name for name in names if not name or "/" in name or "." in name or name.endswith(DEPTH_SUFFIX)]
    if bad or len(set(names)) != len(names):
        raise ConfigError(
            f"camera names {names}: they must differ, contain no '/' or '.', and not end in '{DEPTH_SUFFIX}'"
        )
    if unknown := set(depth or ()) - set(names):
        raise ConfigError(f"depth asked for of unknown cameras {sorted(unknown)}; cameras: {names}")


def _column(feature: Mapping[str, Any]) -> Column:
    names = feature.get("names")
    if isinstance(names, Mapping):  # older datasets group the names: {"motors": [...]}
        names = [name for group in names.values() for name in group]
    is_depth = (feature.get("info") or {}).get("is_depth_map", False)
    return Column(
        dtype=str(feature["dtype"]),
        shape=tuple(int(size) for size in feature["shape"]),
        names=tuple(str(name) for name in names) if names else None,
        depth=bool(is_depth),
    )


def _kind(name: str) -> str:
    return f"camera {name.removeprefix(IMAGES)} ({name})" if name.startswith(IMAGES) else f"column {name}"


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)


def _listed(names: tuple[str, ...] | None) -> str:
    return "[" + ", ".join(names) + "]" if names else "none"
