"""Do the numbers of an episode make sense for this arm? Indices, finite values, ranges, jumps, safety flags, labels."""

from collections.abc import Iterator

import numpy as np

from ..robot.types import ArmSpec
from .episodes import EpisodeArrays
from .findings import Finding
from .labels import label_columns
from .schema import LABEL_COLUMNS, Schema

STATE_TOLERANCE_RAD = 0.05  # measured joints may be pressed a little beyond their range
ACTION_TOLERANCE_RAD = 1e-3
GRIPPER_STATE_TOLERANCE = 0.2  # fingers swing beyond their end
JUMP_FACTOR = 2.0  # times the fastest the joint can move
CHANGED_RAD = 1e-3  # a smaller difference between requested and executed is rounding


def check_names(schema: Schema, arm: ArmSpec) -> Iterator[Finding]:
    """Joint names and their order: another order looks fine until the arm moves."""
    for name in ("observation.state", "action", "action.requested"):
        column = schema.columns.get(name)
        if column is not None and column.names != arm.action_names:
            same = sorted(column.names or ()) == sorted(arm.action_names)
            yield Finding(
                "error", "joint order" if same else "joint names", None,
                f"{name}: {', '.join(column.names or ('none',))}", ", ".join(arm.action_names),
                "do not train on it or replay it; import it again with the joints in the arm's order",
            )  # fmt: skip


def check_index(arrays: EpisodeArrays, first_row: int, fps: int) -> Iterator[Finding]:
    """Columns that LeRobot finds frames by."""
    n, columns = len(arrays), arrays.columns
    expected = {
        "index": first_row + np.arange(n),
        "episode_index": np.full(n, arrays.ref.index),
        "frame_index": np.arange(n),
        "timestamp": np.arange(n) / fps,
    }
    wrong = [name for name, value in expected.items() if not np.allclose(columns[name], value, rtol=0, atol=1e-3)]
    if wrong:
        yield Finding(
            "error", "index", arrays.ref.index, f"{', '.join(wrong)} have gaps or are shifted", "counting without gaps",
            "`armflow data repair` writes them anew", "rewrite",
        )  # fmt: skip


def check_finite(arrays: EpisodeArrays, schema: Schema) -> Iterator[Finding]:
    for name, values in arrays.columns.items():
        column = schema.columns[name]
        if column.dtype.startswith("float") and (bad := ~np.isfinite(values.reshape(len(values), -1))).any():
            frame, entry = np.argwhere(bad)[0]
            what = column.names[entry] if column.names else name
            yield Finding(
                "error", "not finite", arrays.ref.index, f"{name} of frame {frame} in {what} ({bad.sum()} values)",
                "finite numbers", "`armflow data repair` leaves the episode out", "drop",
            )  # fmt: skip


def check_ranges(arrays: EpisodeArrays, arm: ArmSpec, fps: int) -> Iterator[Finding]:
    """Joints and gripper within their range, and no joint faster than it can be."""
    tolerances = (
        ("observation.state", STATE_TOLERANCE_RAD, GRIPPER_STATE_TOLERANCE),
        ("action", ACTION_TOLERANCE_RAD, ACTION_TOLERANCE_RAD),
    )
    low, high = np.append(arm.q_min, 0.0), np.append(arm.q_max, 1.0)
    for name, joints, gripper in tolerances:
        values, slack = arrays.columns[name], np.append(np.full(arm.dof, joints), gripper)
        for j in np.flatnonzero(((values < low - slack) | (values > high + slack)).any(axis=0)):
            unit = "rad" if j < arm.dof else "(opening)"
            yield Finding(
                "error", "range", arrays.ref.index,
                f"{name} {arm.action_names[j]}: {values[:, j].min():.3f} to {values[:, j].max():.3f} {unit}",
                f"{low[j]:.3f} to {high[j]:.3f} {unit}",
                "wrong unit, zero or joint order; correct it where it was recorded, and drop the episode",
            )  # fmt: skip
    speeds = np.abs(np.diff(arrays.state[:, :-1], axis=0)).max(axis=0, initial=0) * fps
    for j in np.flatnonzero(speeds > JUMP_FACTOR * arm.dq_max):
        yield Finding(
            "error", "jump", arrays.ref.index, f"{arm.joint_names[j]} moves at {speeds[j]:.1f} rad/s between two frames",
            f"at most {arm.dq_max[j]:.1f} rad/s", "frames are missing or a reading was wrong; drop the episode",
        )  # fmt: skip


def check_safety(arrays: EpisodeArrays) -> Iterator[Finding]:
    """What was executed differs from what was requested only where the safety filter says so."""
    requested, flags = arrays.columns.get("action.requested"), arrays.columns.get("safety_flags")
    if requested is None or flags is None:
        return
    changed = np.abs(requested - arrays.action).max(axis=1) > CHANGED_RAD
    if unexplained := int((changed & (flags == 0)).sum()):
        frame = int(np.argmax(changed & (flags == 0)))
        yield Finding(
            "error", "executed action", arrays.ref.index,
            f"{unexplained} frames differ from the request without a safety flag, first frame {frame}",
            "executed = requested where no flag is set",
            "the driver or the safety filter changes commands silently; fix it before recording more",
        )  # fmt: skip


def check_label(arrays: EpisodeArrays) -> Iterator[Finding]:
    """An episode has a label, and the columns that follow from it agree with it."""
    index, label = arrays.ref.index, arrays.ref.label
    if label is None:
        yield Finding("warning", "label", index, "no label", "an outcome", "`armflow data relabel` gives it one")
        return
    columns = label_columns(label, len(arrays))
    present = [name for name in LABEL_COLUMNS if name in arrays.columns]
    if wrong := [name for name in present if not np.array_equal(arrays.columns[name], columns[name])]:
        yield Finding(
            "error", "label", index, f"{', '.join(wrong)} disagree with the label '{label.outcome}'",
            "columns that follow from the newest label", "`armflow data repair` writes them anew", "labels",
        )  # fmt: skip
    if label.loop is not None and label.loop.steps != len(arrays):
        yield Finding(
            "error", "length", index, f"{len(arrays)} frames", f"{label.loop.steps}, the steps the control loop made",
            "frames were lost between the loop and the dataset; drop the episode or commit its recording again",
        )  # fmt: skip
