"""From wishes to joint targets: what a device may ask for, and what becomes of it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from armflow.robot.clock import SimClock
from armflow.robot.control import Decision, LoopCfg, observe, run_episode
from armflow.robot.errors import DeviceFault
from armflow.robot.fakes import FakeArm, FakeSink
from armflow.robot.geometry import pose
from armflow.robot.kinematics import Kinematics
from armflow.robot.rig import load_rig
from armflow.robot.safety import JointSafety
from armflow.robot.types import ArmState, ControlMode, Floats
from armflow.teleop.device import JointTarget, TeleopEvent, TeleopInput, ToolDelta, ToolPose
from armflow.teleop.source import (
    MAX_JOINT_SPEED_RAD_S,
    MAX_LEAD_RAD,
    MAX_TOOL_SPEED_M_S,
    MAX_TOOL_TURN_RAD_S,
    TeleopSource,
    moved,
    towards,
)
from scipy.spatial.transform import Rotation

HOME = np.array(load_rig().arm.home_q)
HZ = 10.0
STILL = np.zeros(3)


class FakeDevice:
    """TeleopDevice that says `inputs` one after the other, then the last one again and again."""

    def __init__(self, inputs: Sequence[TeleopInput]) -> None:
        self._inputs = list(inputs)

    def read(self, state: ArmState) -> TeleopInput:
        return self._inputs.pop(0) if len(self._inputs) > 1 else self._inputs[0]


Play = Callable[..., list[Decision | None]]


@pytest.fixture(scope="module")
def kinematics() -> Kinematics:
    return Kinematics(load_rig().arm)


@pytest.fixture
def arm(clock: SimClock) -> FakeArm:
    return FakeArm(clock, q=HOME)


@pytest.fixture
def play(kinematics: Kinematics, arm: FakeArm, clock: SimClock) -> Play:
    """play(*inputs): the decisions of so many ticks on an arm that follows at once, without a safety filter."""

    def _play(*inputs: TeleopInput) -> list[Decision | None]:
        source, decisions = TeleopSource(FakeDevice(inputs), kinematics, HZ), []
        for _ in inputs:
            decision = source.next(observe(arm, {}, clock, 1.0))
            decisions.append(decision)
            if decision is not None:
                arm.command(decision.command)
        return decisions

    return _play


def move(x: float = 0, y: float = 0, z: float = 0, *, engaged: bool = True, gripper: float = 1.0) -> TeleopInput:
    """A wish to move by so many metres within one control period."""
    return TeleopInput(engaged, ToolDelta(np.array([x, y, z]), STILL), gripper)


def release(gripper: float = 1.0) -> TeleopInput:
    return TeleopInput(engaged=False, target=None, gripper=gripper)


def at(X_BE: Floats) -> TeleopInput:
    return TeleopInput(engaged=True, target=ToolPose(X_BE), gripper=1.0)


def joints(decisions: Sequence[Decision | None]) -> Floats:
    """(n, 7) joint targets."""
    return np.stack([d.command.q for d in decisions if d is not None])


def tool(kinematics: Kinematics, decisions: Sequence[Decision | None]) -> Floats:
    """(n, 4, 4) tool poses of the targets."""
    return np.stack([kinematics.forward(q) for q in joints(decisions)])


# --- the dead-man


def test_without_the_dead_man_the_arm_is_told_to_stay_where_it_is(play: Play) -> None:
    decisions = play(*[move(0.02, engaged=False)] * 3, release())
    np.testing.assert_array_equal(joints(decisions), np.tile(HOME, (4, 1)))


def test_the_arm_stays_where_it_was_let_go(play: Play) -> None:
    q = joints(play(move(0.02), move(0.02), *[move(0.02, engaged=False)] * 3))
    assert np.abs(q[1] - HOME).max() > 0.01
    np.testing.assert_array_equal(q[2:], q[[1, 1, 1]])


def test_motion_goes_on_from_where_it_stopped(kinematics: Kinematics, play: Play) -> None:
    """What was wished for in between is not made up for."""
    X = tool(kinematics, play(move(0.02), *[move(0.05, engaged=False)] * 5, move(0.02)))
    np.testing.assert_allclose(np.diff(X[:, 0, 3])[[0, 4, 5]], [0, 0, 0.02], atol=1e-4)


def test_the_gripper_moves_only_with_the_dead_man_held(play: Play) -> None:
    decisions = play(release(0.0), move(gripper=0.0), release(1.0), move(gripper=1.0))
    assert [d.command.gripper for d in decisions if d] == [1.0, 0.0, 0.0, 1.0]


def test_before_the_dead_man_was_ever_held_the_gripper_keeps_its_measured_opening(arm: FakeArm, play: Play) -> None:
    arm.gripper = 0.3
    assert [d.command.gripper for d in play(release(1.0), release(0.0)) if d] == [0.3, 0.3]


def test_engaged_without_a_target_only_the_gripper_moves(play: Play) -> None:
    (decision,) = play(TeleopInput(engaged=True, target=None, gripper=0.0))
    assert decision is not None and decision.command.gripper == 0.0
    np.testing.assert_array_equal(decision.command.q, HOME)


# --- directions and speed


@pytest.mark.parametrize("direction", np.vstack([np.eye(3), -np.eye(3)]))
def test_the_tool_goes_where_it_is_wished_in_the_base_frame(
    kinematics: Kinematics, play: Play, direction: Floats
) -> None:
    X = tool(kinematics, play(move(), move(*(0.02 * direction))))
    np.testing.assert_allclose(X[1, :3, 3] - X[0, :3, 3], 0.02 * direction, atol=1e-4)
    np.testing.assert_allclose(X[1, :3, :3], X[0, :3, :3], atol=1e-3)


@pytest.mark.parametrize("axis", np.eye(3))
def test_the_tool_turns_about_its_own_origin_in_base_axes(kinematics: Kinematics, play: Play, axis: Floats) -> None:
    X = tool(kinematics, play(move(), TeleopInput(True, ToolDelta(STILL, 0.1 * axis), 1.0)))
    turn = Rotation.from_matrix(X[1, :3, :3] @ X[0, :3, :3].T).as_rotvec()
    np.testing.assert_allclose(turn, 0.1 * axis, atol=1e-3)
    np.testing.assert_allclose(X[1, :3, 3], X[0, :3, 3], atol=1e-3)


def test_a_far_pose_is_approached_at_the_greatest_speed_and_reached(kinematics: Kinematics, play: Play) -> None:
    start = kinematics.forward(HOME)
    goal = moved(start, ToolDelta(np.array([0.1, 0.15, 0.1]), STILL))
    X = tool(kinematics, play(*[at(goal)] * 6))
    steps = np.linalg.norm(np.diff(np.concatenate([start[None], X])[:, :3, 3], axis=0), axis=1)
    assert steps.max() < MAX_TOOL_SPEED_M_S / HZ + 1e-4
    np.testing.assert_allclose(steps[:3], MAX_TOOL_SPEED_M_S / HZ, atol=1e-4)
    np.testing.assert_allclose(X[-1], goal, atol=1e-3)


def test_a_far_turn_is_made_at_the_greatest_speed(kinematics: Kinematics, play: Play) -> None:
    start = kinematics.forward(HOME)
    goal = moved(start, ToolDelta(STILL, np.array([0, 0, 0.9])))
    X = np.concatenate([start[None], tool(kinematics, play(*[at(goal)] * 8))])
    turns = [Rotation.from_matrix(b[:3, :3] @ a[:3, :3].T).magnitude() for a, b in zip(X, X[1:], strict=False)]
    np.testing.assert_allclose(turns[:5], MAX_TOOL_TURN_RAD_S / HZ, atol=1e-3)
    np.testing.assert_allclose(X[-1], goal, atol=1e-3)


def test_a_delta_that_is_too_long_is_cut_not_saved_up(kinematics: Kinematics, play: Play) -> None:
    X = tool(kinematics, play(move(), move(x=0.5), move(), move()))
    np.testing.assert_allclose(X[1:, 0, 3] - X[0, 0, 3], MAX_TOOL_SPEED_M_S / HZ, atol=1e-3)


def test_towards_never_overshoots() -> None:
    X, goal = np.eye(4), pose((0.01, 0, 0), Rotation.from_rotvec((0, 0.02, 0)).as_matrix())
    np.testing.assert_allclose(towards(X, goal, 0.06, 0.15), goal, atol=1e-12)
    np.testing.assert_array_equal(towards(X, X, 0.06, 0.15), X)


def test_joints_are_approached_at_the_greatest_speed_and_reached(play: Play) -> None:
    far = np.array([0.4, -0.4, 0.1, 0.0, 0.0, 0.0, 0.0])
    q = joints(play(*[TeleopInput(engaged=True, target=JointTarget(HOME + far), gripper=1.0)] * 4)) - HOME
    step = MAX_JOINT_SPEED_RAD_S / HZ
    expected = [np.clip(far, -i * step, i * step) for i in (1, 2, 3, 4)]
    np.testing.assert_allclose(q, expected, atol=1e-12)


def test_joints_then_a_tool_move_go_on_from_each_other(kinematics: Kinematics, play: Play) -> None:
    bent = HOME + 0.05
    X = tool(kinematics, play(TeleopInput(True, JointTarget(bent), 1.0), move(0.02)))
    np.testing.assert_allclose(X[0], kinematics.forward(bent), atol=1e-12)
    np.testing.assert_allclose(X[1, :3, 3] - X[0, :3, 3], [0.02, 0, 0], atol=1e-4)


# --- out of reach


def test_a_wish_out_of_reach_does_not_wind_up(kinematics: Kinematics, play: Play) -> None:
    """After seconds of pushing against the end of the reach, the first wish back moves the tool back at once."""
    X = tool(kinematics, play(*[move(x=0.05)] * 60, move(x=-0.02)))
    at_the_end, one_back = X[-2, 0, 3], X[-1, 0, 3]
    assert at_the_end < 1.0, "the arm is not that long"
    assert one_back == pytest.approx(at_the_end - 0.02, abs=2e-3)


def test_a_pose_out_of_reach_leaves_joints_in_their_range(arm: FakeArm, play: Play) -> None:
    q = joints(play(*[at(pose((0.3, 2.0, -1.0), np.diag([1.0, -1.0, -1.0])))] * 40))
    assert (q > arm.spec.q_min).all() and (q < arm.spec.q_max).all()
    assert np.abs(np.diff(q, axis=0)).max() < 1.5, "no jump to another branch"


# --- letting go while the arm is behind


def slowed(kinematics: Kinematics, clock: SimClock, inputs: Sequence[TeleopInput], *, speed_scale: float) -> Floats:
    """(n + 1, 7) joint targets wished for, then where the arm ended, when the safety filter slows it down."""
    arm, sink = FakeArm(clock, q=HOME), FakeSink()
    run_episode(
        arm=arm, cameras={}, source=TeleopSource(FakeDevice(inputs), kinematics, HZ),
        safety=JointSafety(arm.spec, replace(load_rig().safety, speed_scale=speed_scale)), clock=clock,
        cfg=LoopCfg(fps=HZ, max_steps=len(inputs)), sinks=(sink,),
    )  # fmt: skip
    return np.stack([*(s.requested.q for s in sink.steps), arm.q])


@pytest.mark.parametrize("engaged", [False, True])
def test_let_go_or_without_a_target_while_the_arm_is_behind_it_stops_where_it_is(
    kinematics: Kinematics, clock: SimClock, engaged: bool
) -> None:
    ended_with = TeleopInput(engaged, target=None, gripper=1.0)
    q = slowed(kinematics, clock, [*[move(0.05)] * 8, *[ended_with] * 10], speed_scale=0.1)
    moving, released, ended = q[7], q[8], q[-1]
    assert np.abs(moving - released).max() > MAX_LEAD_RAD, "the arm was behind"
    np.testing.assert_array_equal(q[8:-1], np.tile(released, (10, 1)))
    np.testing.assert_array_equal(ended, released)


def test_a_small_lag_is_no_reason_to_move_the_target(kinematics: Kinematics, clock: SimClock) -> None:
    q = slowed(kinematics, clock, [*[move(0.01)] * 2, *[release()] * 5], speed_scale=0.05)
    lead = np.abs(q[1] - HOME).max() - 2 * 0.05 * FakeArm(clock).spec.dq_max.max() / HZ
    assert 0 < lead < MAX_LEAD_RAD
    np.testing.assert_array_equal(q[2:-1], np.tile(q[1], (5, 1)))


def test_after_letting_go_motion_starts_again_from_the_arm(kinematics: Kinematics, clock: SimClock) -> None:
    q = slowed(kinematics, clock, [*[move(0.05)] * 8, release(), move(0.01)], speed_scale=0.1)
    stopped, again = kinematics.forward(q[8]), kinematics.forward(q[9])
    np.testing.assert_allclose(again[:3, 3] - stopped[:3, 3], [0.01, 0, 0], atol=1e-3)


def test_an_arm_that_is_pushed_while_it_holds_is_to_come_back(
    kinematics: Kinematics, arm: FakeArm, clock: SimClock
) -> None:
    """A target that followed would sink with every weight that the arm carries."""
    source = TeleopSource(FakeDevice([release()]), kinematics, HZ)
    source.next(observe(arm, {}, clock, 1.0))
    arm.q = HOME + 2 * MAX_LEAD_RAD
    decision = source.next(observe(arm, {}, clock, 1.0))
    assert decision is not None
    np.testing.assert_array_equal(decision.command.q, HOME)


# --- events and faults


@pytest.mark.parametrize("event", TeleopEvent)
def test_an_event_ends_the_episode_and_is_remembered(
    kinematics: Kinematics, arm: FakeArm, clock: SimClock, event: TeleopEvent
) -> None:
    device = FakeDevice([move(0.01), TeleopInput(True, None, 0.0, event)])
    source = TeleopSource(device, kinematics, HZ)
    result = run_episode(
        arm=arm, cameras={}, source=source, safety=JointSafety(arm.spec), clock=clock, cfg=LoopCfg(fps=HZ)
    )
    assert source.event is event
    assert (result.end.reason, result.stats.steps) == ("source ended", 1)
    assert arm.gripper == 1.0, "nothing is commanded with the event"


def test_an_episode_without_an_event_has_none(kinematics: Kinematics, arm: FakeArm, clock: SimClock) -> None:
    source = TeleopSource(FakeDevice([release()]), kinematics, HZ)
    assert source.next(observe(arm, {}, clock, 1.0)) is not None
    assert source.event is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["translation", "rotation", "pose", "joints"])
def test_a_wish_that_is_not_finite_is_the_devices_fault_by_name(
    arm: FakeArm, play: Play, place: str, value: float
) -> None:
    bad, X_BE = np.array([0.0, value, 0.0]), np.eye(4)
    X_BE[1, 3] = value
    target = {
        "translation": ToolDelta(bad, STILL),
        "rotation": ToolDelta(STILL, bad),
        "pose": ToolPose(X_BE),
        "joints": JointTarget(np.append(HOME[:6], value)),
    }[place]
    what = "joint position" if place == "joints" else "tool pose"
    with pytest.raises(DeviceFault, match=f"FakeDevice: asks for a {what} that is not finite"):
        play(move(0.01), TeleopInput(True, target, 1.0))
    assert len(arm.commands) == 1


def test_nonsense_is_ignored_while_nobody_holds_the_dead_man(play: Play) -> None:
    assert play(move(np.nan, engaged=False)) != [None]


def test_decisions_say_who_made_them_and_need_no_images(kinematics: Kinematics, arm: FakeArm, clock: SimClock) -> None:
    source = TeleopSource(FakeDevice([release()]), kinematics, HZ, ControlMode.INTERVENTION)
    decision = source.next(observe(arm, {}, clock, 1.0))
    assert decision is not None and decision.mode is ControlMode.INTERVENTION
    assert not source.wants_frames()
