"""A policy that acts while the dead-man is held: whose turn it is, and that the arm never jumps."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from armflow.robot.clock import SimClock
from armflow.robot.control import Decision, LoopCfg, observe, run_episode
from armflow.robot.errors import DeviceFault
from armflow.robot.fakes import FakeArm, FakeSink
from armflow.robot.kinematics import Kinematics
from armflow.robot.rig import load_rig
from armflow.robot.safety import JointSafety
from armflow.robot.types import ControlMode, Observation
from armflow.teleop.device import JointTarget, TeleopEvent, TeleopInput, ToolDelta
from armflow.teleop.handover import NO_CHUNK, RETURN_RAD_S
from armflow.teleop.hold_to_run import HoldToRunSource, moves
from armflow.teleop.source import MAX_LEAD_RAD
from armflow.teleop.takeover import HOLD_S
from armflow.tests.teleop.doubles import HOME, HZ, Hand, Planner, joints, modes, played, run_out
from hypothesis import given, settings
from hypothesis import strategies as st

HOLD = round(HOLD_S * HZ)
POLICY, PERSON, NOBODY = ControlMode.POLICY, ControlMode.INTERVENTION, ControlMode.PAUSE
RETURN_RAD = RETURN_RAD_S / HZ


class Elsewhere(Planner):
    """Its first plan, and that after every interruption, begins `jump_rad` from the arm."""

    def __init__(self, move_rad: float) -> None:
        super().__init__(move_rad)
        self.replan()

    def next(self, obs: Observation) -> Decision:
        decision = super().next(obs)
        if not self._queue:
            self._jump_rad = 0.0  # goes on from here
        return decision

    def replan(self) -> None:
        super().replan()
        self.seen.append(HOME)  # plans jump from the second one on
        self._jump_rad = 3.5 * RETURN_RAD


@pytest.fixture(scope="module")
def kinematics() -> Kinematics:
    return Kinematics(load_rig().arm)


def held(script: str, policy: Planner, kinematics: Kinematics, step_m: float = 0.02) -> list[Decision]:
    clock = SimClock()
    source = HoldToRunSource(policy, Hand(script, step_m=step_m), kinematics, HZ)
    return played(source, FakeArm(clock, q=HOME), clock, len(script))


Play = Callable[..., list[Decision]]


@pytest.fixture
def play(kinematics: Kinematics) -> Play:
    return lambda script, policy=None: held(script, policy or Planner(), kinematics)


# --- whose turn it is


def test_the_policy_acts_while_the_dead_man_is_held_and_only_then(play: Play) -> None:
    decisions = play("hhh...hh.h")
    assert modes(decisions) == [POLICY] * 3 + [NOBODY] * 3 + [POLICY] * 2 + [NOBODY, POLICY]


def test_who_moves_the_device_moves_the_arm_and_a_moment_later_the_policy_goes_on(play: Play) -> None:
    decisions = play("hhuuu" + "h" * (HOLD + 2))
    assert modes(decisions) == [POLICY] * 2 + [PERSON] * (3 + HOLD) + [POLICY] * 2


def test_a_person_who_lets_go_for_a_moment_may_go_on_moving(play: Play) -> None:
    decisions = play("hu.." + "h" * (HOLD - 1) + "u")
    assert modes(decisions) == [POLICY, PERSON, NOBODY, NOBODY] + [PERSON] * HOLD


def test_after_every_interruption_the_policy_plans_from_what_it_sees(play: Play) -> None:
    """The chunk that was interrupted after two of four steps is not taken up again, and a pause is of none."""
    policy = Planner()
    decisions = play("hh.." + "h" * 5, policy)
    assert [(d.chunk_index, d.chunk_step) for d in decisions] == [
        (0, 0), (0, 1), (NO_CHUNK, NO_CHUNK), (NO_CHUNK, NO_CHUNK), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0)
    ]  # fmt: skip
    np.testing.assert_array_equal(policy.seen[1], joints(decisions)[3])


def test_images_are_wanted_whenever_the_policy_might_plan(kinematics: Kinematics, clock: SimClock) -> None:
    script, arm = "hh..hhhhh", FakeArm(clock, q=HOME)
    source, wanted = HoldToRunSource(Planner(), Hand(script), kinematics, HZ), []
    for _ in script:
        wanted.append(source.wants_frames())
        source.next(observe(arm, {}, clock, 1.0))
    assert wanted == [True, False, False, True, True, False, False, False, True]


@pytest.mark.parametrize(
    ("target", "moving"),
    [
        (None, False),
        (ToolDelta(np.zeros(3), np.zeros(3)), False),
        (ToolDelta(np.zeros(3), np.array([0.0, 0.0, 0.01])), True),
        (JointTarget(HOME), True),
    ],
)
def test_a_device_that_wants_the_arm_somewhere_is_never_still(target, moving: bool) -> None:
    assert moves(TeleopInput(True, target, 1.0)) is moving


# --- no jump


def test_the_arm_stays_where_it_is_let_go(play: Play) -> None:
    q = joints(play("hh....huu..."))
    np.testing.assert_array_equal(q[2:6], np.tile(q[1], (4, 1)))
    np.testing.assert_array_equal(q[9:], np.tile(q[8], (3, 1)))


def test_an_arm_that_is_far_behind_comes_to_rest_where_it_is(kinematics: Kinematics, clock: SimClock) -> None:
    """The safety filter slowed the policy down: letting go must not make the arm catch up with it."""
    arm, sink = FakeArm(clock, q=HOME), FakeSink()
    source = HoldToRunSource(Planner(move_rad=0.04), Hand("hhhh......"), kinematics, HZ)
    slow = replace(load_rig().safety, speed_scale=0.05)
    run_episode(
        arm=arm, cameras={}, source=source, safety=JointSafety(arm.spec, slow), clock=clock,
        cfg=LoopCfg(fps=HZ, max_steps=10), sinks=(sink,),
    )  # fmt: skip
    before = sink.steps[3]
    assert np.abs(before.requested.q - before.executed.q).max() > MAX_LEAD_RAD
    for step in sink.steps[4:]:
        np.testing.assert_array_equal(step.requested.q, before.executed.q)
    np.testing.assert_allclose(sink.steps[-1].executed.q, before.executed.q, atol=1e-3)


def test_a_policy_that_jumps_is_led_there_from_the_first_command_on(play: Play) -> None:
    q = np.vstack([HOME, joints(play("hhhhh...hhhhh", Elsewhere(move_rad=0.0)))])
    expected = RETURN_RAD * np.array([1, 1, 1, 0.5, 0, 0, 0, 0, 1, 1, 1, 0.5, 0])
    np.testing.assert_allclose(np.diff(q, axis=0)[:, 0], expected, atol=1e-12)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from("h.ud"), st.integers(1, 8)), min_size=1, max_size=7))
def test_no_sequence_of_holding_moving_and_letting_go_makes_a_jump(
    kinematics: Kinematics, spells: list[tuple[str, int]]
) -> None:
    script = "".join(letter * n for letter, n in spells)
    decisions = held(script, Elsewhere(move_rad=0.01), kinematics, step_m=0.005)
    moved = np.abs(np.diff(np.vstack([HOME, joints(decisions)]), axis=0)).max(axis=1)
    assert (moved <= RETURN_RAD + 1e-9).all(), "what a period allows"
    still = HOLD  # readings of a held device since it moved
    for letter, decision, move_rad in zip(script, decisions, moved, strict=True):
        if letter in "ud":
            still = 0
            assert decision.mode is PERSON
        elif letter == ".":
            assert (decision.mode, move_rad) == (NOBODY, 0.0)
        else:
            assert decision.mode is (POLICY if still >= HOLD else PERSON)
            still += 1


# --- the gripper


def test_a_press_means_the_other_of_what_the_policy_holds(play: Play) -> None:
    """The policy has closed the gripper, which the device has not noticed: its own is open."""
    decisions = play("hhp" + "h" * HOLD + "h")
    assert modes(decisions) == [POLICY] * 2 + [PERSON] * (1 + HOLD) + [POLICY]
    assert [d.command.gripper for d in decisions] == [0.0] * 2 + [1.0] * (1 + HOLD) + [0.0]


def test_what_the_policy_holds_is_dropped_neither_by_moving_nor_by_letting_go(play: Play) -> None:
    assert {d.command.gripper for d in play("hhuu..u...h")} == {0.0}


def test_pressing_again_while_the_person_decides_closes_it_again(play: Play) -> None:
    assert [d.command.gripper for d in play("huphp")] == [0.0, 0.0, 1.0, 1.0, 0.0]


# --- ends


@pytest.mark.parametrize("event", TeleopEvent)
@pytest.mark.parametrize("before", ["hh", "hhu", "hh.", "."])
def test_the_person_ends_the_episode_whoever_decides(
    kinematics: Kinematics, clock: SimClock, before: str, event: TeleopEvent
) -> None:
    source, arm = HoldToRunSource(Planner(), Hand(before + "E", event), kinematics, HZ), FakeArm(clock, q=HOME)
    result = run_out(source, arm, clock)
    assert source.event is event
    assert (result.end.reason, result.stats.steps) == ("source ended", len(before))


def test_an_unplugged_device_stops_the_policy(kinematics: Kinematics, clock: SimClock) -> None:
    source, arm = HoldToRunSource(Planner(), Hand("hhh!"), kinematics, HZ), FakeArm(clock, q=HOME)
    with pytest.raises(DeviceFault, match="joystick: unplugged"):
        run_out(source, arm, clock)
    assert arm.holding
