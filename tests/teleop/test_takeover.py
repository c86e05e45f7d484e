"""A policy and a person on one arm: whose command counts, and what is in between."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from armflow.datasets.episodes import load_episodes, open_dataset
from armflow.robot.clock import SimClock
from armflow.robot.control import Decision, LoopCfg, observe, run_episode
from armflow.robot.errors import DeviceFault, SafetyStop
from armflow.robot.fakes import FakeArm, FakeSink
from armflow.robot.kinematics import Kinematics
from armflow.robot.rig import Rig, load_rig
from armflow.robot.safety import JointSafety
from armflow.robot.types import ControlMode
from armflow.teleop.collect import Job
from armflow.teleop.device import TeleopEvent
from armflow.teleop.handover import NO_CHUNK, RETURN_RAD_S
from armflow.teleop.session import teleoperate
from armflow.teleop.source import MAX_LEAD_RAD
from armflow.teleop.takeover import HOLD_S, TakeoverSource
from armflow.tests.teleop.doubles import HOME, HZ, Hand, Planner, joints, modes, played, run_out

HOLD = round(HOLD_S * HZ)
POLICY, PERSON = ControlMode.POLICY, ControlMode.INTERVENTION


@pytest.fixture(scope="module")
def kinematics() -> Kinematics:
    return Kinematics(load_rig().arm)


@pytest.fixture
def arm(clock: SimClock) -> FakeArm:
    return FakeArm(clock, q=HOME)


Play = Callable[..., list[Decision]]


@pytest.fixture
def play(kinematics: Kinematics, arm: FakeArm, clock: SimClock) -> Play:
    """play(script, policy): the decisions of so many ticks on an arm that follows at once, without a safety filter."""

    def _play(script: str, policy: Planner | None = None) -> list[Decision]:
        source = TakeoverSource(policy or Planner(), Hand(script), kinematics, HZ)
        return played(source, arm, clock, len(script))

    return _play


# --- whose turn it is


def test_the_person_decides_while_the_dead_man_is_held_and_a_moment_longer(play: Play) -> None:
    decisions = play("..uuu" + "." * HOLD + "..")
    assert modes(decisions) == [POLICY] * 2 + [PERSON] * (3 + HOLD) + [POLICY] * 2


def test_without_a_person_nothing_is_changed(play: Play, arm: FakeArm, clock: SimClock) -> None:
    start, alone = arm.q.copy(), Planner(jump_rad=0.3)
    beside = joints(play("." * 10, Planner(jump_rad=0.3)))
    arm.q = start
    for q in beside:
        wanted = alone.next(observe(arm, {}, clock, 1.0)).command
        np.testing.assert_array_equal(q, wanted.q)
        arm.command(wanted)


def test_the_policy_waits_while_the_person_only_gets_ready(play: Play) -> None:
    """As with a leader arm that is not where the arm is yet."""
    decisions = play("..nnnu")
    assert modes(decisions) == [POLICY] * 2 + [PERSON] * 4
    np.testing.assert_array_equal(joints(decisions)[2:5], joints(decisions)[[1, 1, 1]])


def test_who_only_lets_go_for_a_moment_keeps_the_arm(play: Play) -> None:
    policy = Planner()
    decisions = play(".u" + "." * (HOLD - 1) + "u" + "." * (HOLD - 1) + "u", policy)
    assert modes(decisions[1:]) == [PERSON] * (len(decisions) - 1)
    assert len(policy.seen) == 1


def test_chunks_go_on_counting_and_the_persons_frames_are_of_none(play: Play) -> None:
    """The chunk that was interrupted after two of four steps is not taken up again."""
    decisions = play("..u" + "." * HOLD + "." * 5)
    assert [(d.chunk_index, d.chunk_step) for d in decisions] == [
        (0, 0), (0, 1), *[(NO_CHUNK, NO_CHUNK)] * (1 + HOLD), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0)
    ]  # fmt: skip


def test_images_are_wanted_when_the_policy_plans_and_never_for_the_person(
    kinematics: Kinematics, arm: FakeArm, clock: SimClock
) -> None:
    script = "..uu" + "." * HOLD + "....."
    source = TakeoverSource(Planner(), Hand(script), kinematics, HZ)
    wanted = []
    for _ in script:
        wanted.append(source.wants_frames())
        source.next(observe(arm, {}, clock, 1.0))
    assert wanted == [True, *[False] * (3 + HOLD), True, False, False, False, True]


# --- no jump


def test_the_person_starts_from_where_the_policy_told_the_arm_to_go(play: Play, kinematics: Kinematics) -> None:
    q = joints(play("..hhu"))
    np.testing.assert_array_equal(q[2:4], q[[1, 1]])
    rise = kinematics.forward(q[4])[:3, 3] - kinematics.forward(q[3])[:3, 3]
    np.testing.assert_allclose(rise, [0, 0, 0.02], atol=1e-3)


def test_what_the_policy_holds_is_not_dropped_by_taking_over(play: Play) -> None:
    """The device's own gripper was left open; it opens when the person says so."""
    assert [d.command.gripper for d in play("..hhoh.")] == [0.0] * 4 + [1.0] * 3


def test_the_arm_stays_where_it_is_let_go(play: Play) -> None:
    q = joints(play(".uu" + "." * HOLD))
    np.testing.assert_array_equal(q[3:], np.tile(q[2], (HOLD, 1)))


def test_the_policy_goes_on_from_what_it_sees_then(play: Play, arm: FakeArm) -> None:
    policy = Planner()
    q = joints(play(".uuu" + "." * HOLD + "..", policy))
    np.testing.assert_array_equal(policy.seen[1], q[3], err_msg="the plan is made after the takeover, not before")
    np.testing.assert_allclose(q[-1] - q[3], 0.02, err_msg="and executed as it is, since it is no jump")


def test_a_policy_that_jumps_after_a_takeover_is_led_there(play: Play) -> None:
    step = RETURN_RAD_S / HZ
    q = joints(play(".u" + "." * HOLD + "." * 5, Planner(move_rad=0.0, jump_rad=3.5 * step)))
    moves = np.diff(q[1 + HOLD :], axis=0)[:, 0]
    np.testing.assert_allclose(moves, step * np.array([1, 1, 1, 0.5, 3.5]), err_msg="once there, it is free again")


def test_an_arm_that_is_far_behind_is_taken_over_where_it_is(kinematics: Kinematics, clock: SimClock) -> None:
    """The safety filter slowed the policy down: the person must not make the arm catch up with it."""
    arm, sink = FakeArm(clock, q=HOME), FakeSink()
    source = TakeoverSource(Planner(move_rad=0.1), Hand("....hhh"), kinematics, HZ)
    run_episode(
        arm=arm, cameras={}, source=source, safety=JointSafety(arm.spec, replace(load_rig().safety, speed_scale=0.05)), clock=clock,
        cfg=LoopCfg(fps=HZ, max_steps=7), sinks=(sink,),
    )  # fmt: skip
    before = sink.steps[3]
    assert np.abs(before.requested.q - before.executed.q).max() > MAX_LEAD_RAD
    for step in sink.steps[4:]:
        np.testing.assert_array_equal(step.requested.q, before.executed.q)


def test_taking_over_before_the_policy_did_anything_starts_from_the_arm(play: Play, arm: FakeArm) -> None:
    arm.gripper = 0.3
    first = play("hh")[0].command
    np.testing.assert_array_equal(first.q, HOME)
    assert first.gripper == 0.3


# --- ends


@pytest.mark.parametrize("event", TeleopEvent)
@pytest.mark.parametrize("before", ["..", "..u", "..u."])
def test_the_person_ends_the_episode_whoever_decides(
    kinematics: Kinematics, arm: FakeArm, clock: SimClock, before: str, event: TeleopEvent
) -> None:
    source = TakeoverSource(Planner(), Hand(before + "E", event), kinematics, HZ)
    result = run_out(source, arm, clock)
    assert source.event is event
    assert (result.end.reason, result.stats.steps) == ("source ended", len(before))


def test_an_unplugged_device_stops_the_policy_too(kinematics: Kinematics, arm: FakeArm, clock: SimClock) -> None:
    """Nobody could take over any more."""
    source = TakeoverSource(Planner(), Hand("...!"), kinematics, HZ)
    with pytest.raises(DeviceFault, match="joystick: unplugged"):
        run_out(source, arm, clock)
    assert arm.holding


# --- in the twin, recorded


@dataclass(frozen=True)
class Planners:
    """PlannerFactory; with seed 12 the policy is mad."""

    operator: str = "policy"
    policy_hash: str = "0123456789abcdef"

    def prepare(self, rig: Rig) -> None: ...

    def __call__(self, instruction: str, seed: int) -> Planner:
        return Planner(move_rad=0.004 if seed != 12 else 2.0, jump_rad=0.2)


@pytest.mark.slow
def test_a_takeover_is_recorded_in_place(
    rig: Rig, clock: SimClock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [Job("pick_peach", 11), Job("pick_peach", 12)]
    hand = Hand("." * 6 + "u" * 5 + "." * (HOLD + 6) + "u" * 3 + "E" + "." * 3)
    root = tmp_path / "rollouts"
    teleoperate(rig, jobs, root, device=hand, clock=clock, rerun=False, policy=Planners())
    (episode,) = load_episodes(open_dataset(root))
    label, mode = episode.ref.label, episode.control_mode
    assert label is not None
    assert (label.outcome, label.operator, label.policy_hash, label.seed) == (
        "success", "policy, joystick", Planners().policy_hash, 11,
    )  # fmt: skip
    assert mode.tolist() == [POLICY] * 6 + [PERSON] * (5 + HOLD) + [POLICY] * 6 + [PERSON] * 3
    assert ((episode.columns["chunk_index"] == NO_CHUNK) == (mode == PERSON)).all()
    assert not episode.columns["safety_flags"][6:].any(), "nothing had to be slowed down since the takeover"
    q = episode.action[:, :7]
    for first in np.flatnonzero(np.diff(mode)) + 1:
        assert np.abs(q[first] - q[first - 1]).max() < 0.06, f"a jump of the command at frame {first}"
        assert np.abs(q[first] - episode.state[first, :7]).max() < 0.15, f"a jump of the arm at frame {first}"
    assert "not recorded: safety stop: first command is 2.0" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_without_a_policy_a_safety_stop_ends_the_session(
    rig: Rig, clock: SimClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise SafetyStop("no")

    monkeypatch.setattr(JointSafety, "__call__", refuse)
    with pytest.raises(SafetyStop):
        teleoperate(rig, [Job("pick_peach", 11)], tmp_path / "demos", device=Hand("uuu"), clock=clock, rerun=False)
