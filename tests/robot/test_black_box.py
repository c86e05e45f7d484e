"""The last half minute before a stop can be read afterwards."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from armflow.robot import fr3
from armflow.robot.black_box import BlackBox, Moment, read_black_box
from armflow.robot.errors import DataError
from armflow.robot.types import ArmCommand, ArmState, SafetyFlag

HZ = 10.0
NAN = np.full(8, np.nan)


def moment(t: float, **filled: Any) -> Moment:
    return Moment(t, ArmState(t, np.full(7, t), np.full(7, 2 * t), np.full(7, 3 * t), 0.5), **filled)


def written(box: BlackBox, reason: str = "why") -> Path:
    path = box.write(reason)
    assert path is not None
    return path


def test_what_is_read_is_what_was_kept(tmp_path: Path):
    box = BlackBox(tmp_path / "stops")
    box.start(fr3.SPEC, HZ)
    q = np.array(range(7), np.float64)
    asked, let_through = ArmCommand(q, 0.25), ArmCommand(0.5 * q, 0.2)
    flags = SafetyFlag.JOINT_SPEED | SafetyFlag.STALE
    box.add(moment(0.1, requested=asked, age_s=0.03, filtered=let_through, flags=flags, sent=let_through))
    last = box.add(moment(0.2))
    last.requested = ArmCommand(np.full(7, np.nan), 0.0)
    read = read_black_box(written(box, "SafetyStop: not finite in joint1.pos"))
    assert (read.reason, read.arm, read.joint_names) == (
        "SafetyStop: not finite in joint1.pos", "fr3", fr3.SPEC.joint_names,
    )  # fmt: skip
    assert {name: rows.shape for name, rows in read.rows.items()} == (
        dict.fromkeys(("t", "age_s", "gripper", "flags"), (2,))
        | dict.fromkeys(("q", "dq", "effort"), (2, 7))
        | dict.fromkeys(("requested", "filtered", "sent"), (2, 8))
    )
    np.testing.assert_array_equal(read.rows["t"], [0.1, 0.2])
    np.testing.assert_array_equal(read.rows["effort"][1], np.full(7, 3 * 0.2))
    np.testing.assert_array_equal(read.rows["requested"], [[*range(7), 0.25], [*NAN[:7], 0.0]])
    np.testing.assert_array_equal(read.rows["filtered"], [[*(np.arange(7) / 2), 0.2], NAN])
    np.testing.assert_array_equal(read.rows["sent"], read.rows["filtered"])
    np.testing.assert_array_equal(read.rows["flags"], [int(flags), 0])
    assert [p.suffix for p in (tmp_path / "stops").iterdir()] == [".npz"], "nothing half written stays"


def test_it_keeps_the_newest_half_minute_across_episodes(tmp_path: Path):
    box = BlackBox(tmp_path)
    for episode in range(4):
        box.start(fr3.SPEC, HZ)
        for i in range(100):
            box.add(moment(10.0 * episode + i / HZ))
    t = read_black_box(written(box)).rows["t"]
    assert (len(t), t[0], t[-1]) == (300, 10.0, 39.9)


def test_every_stop_is_a_file_of_its_own(tmp_path: Path):
    box = BlackBox(tmp_path)
    box.start(fr3.SPEC, HZ)
    box.add(moment(0.0))
    assert written(box) != written(box)


def test_a_request_for_another_arm_is_kept_as_far_as_it_goes(tmp_path: Path):
    box = BlackBox(tmp_path)
    box.start(fr3.SPEC, HZ)
    for shape in ((6,), (9,), (1, 7), ()):
        box.add(moment(0.0, requested=ArmCommand(np.ones(shape), 1.0)))
    rows = read_black_box(written(box)).rows["requested"]
    np.testing.assert_array_equal(np.isfinite(rows).sum(axis=1), [7, 8, 8, 2])


def test_without_a_folder_or_anything_to_say_nothing_is_written(tmp_path: Path):
    silent, empty = BlackBox(), BlackBox(tmp_path / "stops")
    for box in (silent, empty):
        box.start(fr3.SPEC, HZ)
    silent.add(moment(0.0))
    assert silent.write("why") is None and empty.write("why") is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"nothing of the kind"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, damage: Any):
    box = BlackBox(tmp_path)
    box.start(fr3.SPEC, HZ)
    box.add(moment(0.0))
    path = written(box)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=path.name):
        read_black_box(path)
    with pytest.raises(DataError, match="nowhere"):
        read_black_box(tmp_path / "nowhere.npz")
