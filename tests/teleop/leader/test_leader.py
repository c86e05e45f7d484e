"""A leader's joints into joint targets: when the arm follows, and how it begins to."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from armflow.robot import fr3
from armflow.robot.clock import SimClock
from armflow.robot.errors import ConfigError, DeviceFault
from armflow.robot.toml_cfg import load
from armflow.robot.types import ArmState, Floats
from armflow.teleop import leader as leader_module
from armflow.teleop.device import JointTarget, TeleopEvent, TeleopInput
from armflow.teleop.leader import GRIPPER_MATCH, LOST_S, MATCH_RAD, RAMP_S, STALE_S, LeaderCfg

MOTORS = tuple("abcdefg")
CFG = LeaderCfg("some_leader", "/dev/ttyUSB0", "mine", MOTORS, (1.0,) * 7, (0.0,) * 7)
ZERO = np.zeros(7)

MakeLeader = Callable[..., Any]


class FakeLeader:
    """LeaderArm; gripper open."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.connected = True
        self.lead(ZERO)
        self.fails: OSError | None = None

    def lead(self, q: Floats, gripper: float = 100.0) -> None:
        with self.lock:
            self.readings = {f"{m}.pos": float(x) for m, x in zip(MOTORS, np.rad2deg(q), strict=True)}
            self.readings["gripper.pos"] = gripper

    def get_action(self) -> dict[str, float]:
        time.sleep(0.001)
        if self.fails is not None:
            raise self.fails
        with self.lock:
            return self.readings

    def disconnect(self) -> None:
        self.connected = False


@pytest.fixture
def arm() -> FakeLeader:
    return FakeLeader()


@pytest.fixture
def leader(arm: FakeLeader, make_leader: MakeLeader) -> Iterator[Any]:
    with make_leader(CFG, lambda cfg: arm) as opened:
        opened.start_episode(1.0)
        yield opened


def at(q: Floats) -> ArmState:
    """The arm that is to follow."""
    return ArmState(0.0, q, ZERO, ZERO, 1.0)


Lead = Callable[..., TeleopInput]


@pytest.fixture
def lead(arm: FakeLeader, leader: Any) -> Lead:
    """lead(q, gripper, follower): what the device says as soon as the leader is there, with the arm at `follower`."""

    def _lead(q: Floats, gripper: float = 100.0, follower: Floats = ZERO) -> TeleopInput:
        arm.lead(q, gripper)
        leader.wait_for_reading()
        return leader.read(at(follower))

    return _lead


def joints(wish: TeleopInput) -> Floats:
    assert isinstance(wish.target, JointTarget)
    return wish.target.q


def follows(wish: TeleopInput) -> bool:
    return wish.engaged and wish.target is not None


# --- the start pose


@pytest.mark.parametrize("joint", range(7))
@pytest.mark.parametrize("sign", [1, -1])
def test_the_arm_does_not_follow_a_leader_that_is_elsewhere_and_the_joint_is_named(
    leader: Any, lead: Lead, joint: int, sign: int
) -> None:
    far = ZERO.copy()
    far[joint] = sign * (MATCH_RAD + 0.01)
    for _ in range(5):
        assert not follows(lead(far))
    assert leader.said == [
        f"move the leader to the arm's pose, within {MATCH_RAD} rad: "
        f"{fr3.SPEC.joint_names[joint]} ({MOTORS[joint]}) by {-far[joint]:+.2f} rad"
    ]
    assert follows(lead(0.9 * far))


def test_it_says_again_when_other_joints_are_far(leader: Any, lead: Lead) -> None:
    for n in (3, 2, 2, 1):
        lead(np.where(np.arange(7) < n, 0.5, 0.0))
    assert [said.count("by") for said in leader.said] == [3, 2, 1]


def test_once_it_is_followed_the_leader_may_run_ahead_of_the_arm(lead: Lead) -> None:
    assert follows(lead(ZERO))
    assert follows(lead(ZERO + 1.0))


def test_let_go_it_has_to_match_again(leader: Any, lead: Lead) -> None:
    assert follows(lead(ZERO))
    leader.clutch.held = False
    assert not follows(lead(ZERO + 0.5))
    leader.clutch.held = True
    assert not follows(lead(ZERO + 0.5))
    assert follows(lead(ZERO + 0.5, follower=ZERO + 0.5))


def test_while_it_is_elsewhere_the_dead_man_is_held_all_the_same(leader: Any, lead: Lead) -> None:
    """So that a policy waits, and the person can bring the leader to an arm that stays."""
    assert lead(ZERO + 0.5).engaged
    leader.clutch.held = False
    assert not lead(ZERO + 0.5).engaged


def test_nothing_is_said_while_nobody_wants_to_move(leader: Any, lead: Lead) -> None:
    leader.clutch.held = False
    lead(ZERO + 0.5)
    assert leader.said == []


# --- how it begins


def test_the_difference_at_the_beginning_fades_out(leader: Any, lead: Lead, clock: SimClock) -> None:
    start, away = ZERO, np.linspace(-1, 1, 7) * 0.9 * MATCH_RAD
    np.testing.assert_allclose(joints(lead(away, follower=start)), start, atol=1e-12)
    path = []
    for i in range(1, 21):
        clock.sleep_until(i / 20 * RAMP_S)
        path.append(joints(lead(away, follower=start)))
    np.testing.assert_allclose(path, np.outer(np.arange(1, 21) / 20, away), atol=1e-9)
    clock.sleep_until(10.0)
    np.testing.assert_allclose(joints(lead(away + 0.3, follower=start)), away + 0.3, err_msg="and does not come back")


def test_signs_and_offsets_map_motors_to_joints(arm: FakeLeader, make_leader: MakeLeader) -> None:
    order, signs, offsets = tuple("gabcdef"), (1.0, -1.0) * 3 + (1.0,), tuple(0.1 * i for i in range(7))
    cfg = replace(CFG, joints=order, signs=signs, offsets_rad=offsets)
    motors = np.array([0.3, -0.2, 0.1, 0.4, -0.5, 0.6, 0.7])
    expected = np.array(signs) * motors[[6, 0, 1, 2, 3, 4, 5]] + np.array(offsets)
    arm.lead(motors)
    with make_leader(cfg, lambda cfg: arm) as device:
        device.wait_for_reading()
        np.testing.assert_allclose(joints(device.read(at(expected))), expected)


# --- the gripper


def test_the_gripper_follows_once_the_leaders_is_where_it_is(leader: Any, lead: Lead) -> None:
    """What the arm holds when the person takes it over must not drop."""
    leader.start_episode(0.0)
    openings = [lead(ZERO, gripper).gripper for gripper in (100, 50, 100 * GRIPPER_MATCH - 1, 50, 100, 130)]
    assert openings == [0.0, 0.0, pytest.approx(GRIPPER_MATCH - 0.01), 0.5, 1.0, 1.0]
    leader.clutch.held = False
    assert lead(ZERO, 0.0).gripper == 1.0
    leader.clutch.held = True
    assert lead(ZERO, 0.0).gripper == 1.0, "it has to be met again"


def test_a_gripper_that_reads_less_when_it_opens(arm: FakeLeader, make_leader: MakeLeader) -> None:
    arm.lead(ZERO, gripper=-58.0)
    with make_leader(replace(CFG, gripper_closed=0.0, gripper_open=-65.0), lambda cfg: arm) as device:
        device.start_episode(0.9)
        device.wait_for_reading()
        assert device.read(at(ZERO)).gripper == pytest.approx(58 / 65)


# --- the clutch


def test_the_clutch_says_when_and_ends_episodes_but_moves_nothing(leader: Any, lead: Lead) -> None:
    np.testing.assert_array_equal(joints(lead(ZERO)), ZERO)
    for held in (True, False):
        leader.clutch.held, leader.clutch.event = held, TeleopEvent.FAILURE
        wish = lead(ZERO)
        assert (wish.engaged, wish.event) == (held, TeleopEvent.FAILURE)
        assert wish.gripper == 1.0
    assert leader.clutch.told == [1.0]
    assert leader.usage == "bring the leader to the arm's pose; step on it"


def test_everything_is_closed_also_when_the_leader_is_not_there(arm: FakeLeader, make_leader: MakeLeader) -> None:
    with make_leader(CFG, lambda cfg: arm) as device:
        assert device.clutch.opened
    assert not device.clutch.opened and not arm.connected

    def absent(cfg: LeaderCfg) -> FakeLeader:
        raise DeviceFault("leader", "absent")

    device = make_leader(CFG, absent)
    with pytest.raises(DeviceFault, match="absent"):
        device.__enter__()
    assert not device.clutch.opened


# --- a leader that is not heard


def test_a_leader_that_is_not_heard_is_not_followed(arm: FakeLeader, leader: Any, lead: Lead, clock: SimClock) -> None:
    assert follows(lead(ZERO))
    arm.fails = ConnectionError("no status packet")
    leader.wait_for_reading()
    clock.sleep_until(0.9 * STALE_S)
    assert follows(leader.read(at(ZERO)))
    clock.sleep_until(1.1 * STALE_S)
    assert not follows(leader.read(at(ZERO)))
    assert leader.said == ["the leader is not heard"]
    arm.fails = None
    assert not follows(lead(ZERO + 0.5)), "what it did meanwhile has to be undone"
    assert follows(lead(ZERO))


def test_before_the_first_reading_nothing_is_followed(arm: FakeLeader, make_leader: MakeLeader) -> None:
    arm.fails = ConnectionError("no status packet")
    with make_leader(CFG, lambda cfg: arm) as device:
        device.wait_for_reading()
        assert not follows(device.read(at(ZERO)))


def test_a_leader_that_stays_silent_is_a_fault(arm: FakeLeader, leader: Any, clock: SimClock) -> None:
    arm.fails = ConnectionError("no status packet")
    clock.sleep_until(1.1 * LOST_S)
    with pytest.raises(DeviceFault, match="leader: its motors do not answer .no status packet.; connect it again"):
        until_it_raises(leader)


def test_a_leader_that_is_unplugged_is_a_fault(arm: FakeLeader, leader: Any) -> None:
    arm.fails = OSError("no such device")
    with pytest.raises(DeviceFault, match="leader: its reader stopped: .*no such device.*; connect it again"):
        until_it_raises(leader)


def until_it_raises(leader: Any) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        leader.read(at(ZERO))
        time.sleep(0.001)


# --- configuration


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"signs": (1.0,) * 6}, "one entry for each joint.*got 7, 6 and 7"),
        ({"joints": tuple("aabcdef")}, "each motor once; got 7, 7 and 7, 6 motors"),
        ({"signs": (2.0,) + (1.0,) * 6}, "signs must be 1 or -1"),
        ({"offsets_rad": (float("nan"),) + (0.0,) * 6}, "offsets_rad finite"),
        ({"gripper_open": 0.0}, "gripper_open and gripper_closed must be two readings"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CFG, **wrong)


def test_a_leader_with_fewer_joints_than_the_arm_is_refused(make_leader: MakeLeader) -> None:
    five = replace(CFG, joints=MOTORS[:5], signs=(1.0,) * 5, offsets_rad=(0.0,) * 5)
    with pytest.raises(ConfigError, match="some_leader is given with 5 joints, the arm has 7"):
        make_leader(five)


def test_the_file_on_the_page_is_a_leader(tmp_path: Path) -> None:
    """The example in teleop/README.md."""
    text = (Path(leader_module.__file__).parent / "README.md").read_text()
    (tmp_path / "leader.toml").write_text(text.split("```toml\n")[1].split("```")[0])
    cfg = load(LeaderCfg, tmp_path / "leader.toml", "leader file")
    assert len(cfg.joints) == len(fr3.SPEC.joint_names)
