"""The one control loop: its schedule, what it passes on, and what it does when something goes wrong."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from armflow.datasets.commit import commit_spool
from armflow.datasets.labels import EpisodeLabel
from armflow.datasets.recovery import recover_spool, unfinished
from armflow.datasets.schema import make_schema
from armflow.datasets.spool import SpoolCfg, SpoolWriter
from armflow.datasets.spool_file import read_spool
from armflow.robot import fr3
from armflow.robot.black_box import BlackBox, read_black_box
from armflow.robot.clock import MonotonicClock, SimClock
from armflow.robot.control import Decision, EpisodeEnd, EpisodeResult, LoopCfg, run_episode
from armflow.robot.errors import DataError, DeviceFault, DeviceNotFound, SafetyStop, StaleReading
from armflow.robot.fakes import FakeArm, FakeCamera, FakeSink, FakeSource, Fault
from armflow.robot.rig import load_rig
from armflow.robot.safety import JointSafety
from armflow.robot.types import ArmCommand, ControlMode, Observation, RgbdFrame, SafetyFlag

PERIOD = 0.1  # s
Episode = Callable[..., EpisodeResult]


@pytest.fixture
def arm(clock: SimClock) -> FakeArm:
    return FakeArm(clock)


@pytest.fixture
def episode(clock: SimClock, arm: FakeArm) -> Episode:
    """Run an episode of ten ticks on fakes; keywords replace parts."""

    def run(**parts: Any) -> EpisodeResult:
        defaults: dict[str, Any] = {
            "arm": arm, "cameras": {}, "source": FakeSource(), "safety": JointSafety(arm.spec), "clock": clock,
            "cfg": LoopCfg(fps=1 / PERIOD, max_steps=10),
        }  # fmt: skip
        return run_episode(**(defaults | parts))

    return run


def busy(clock: SimClock, *seconds: float) -> Callable[[Observation], ArmCommand]:
    """A decision that takes so long, tick by tick, and then no time."""
    durations = iter(seconds)

    def decide(obs: Observation) -> ArmCommand:
        clock.sleep_until(clock.now() + next(durations, 0.0))
        return ArmCommand(obs.arm.q.copy(), 0.0)

    return decide


# --- schedule


def test_ticks_come_on_an_absolute_schedule(clock: SimClock, arm: FakeArm, episode: Episode):
    """Work that varies within the period moves no later tick."""
    clock.sleep_until(12.345)
    source = FakeSource(busy(clock, 0.03, 0.08, 0.0, 0.099, 0.05))
    result = episode(source=source)
    np.testing.assert_allclose([o.t for o in source.seen], 12.345 + PERIOD * np.arange(10), atol=1e-9)
    assert result.stats.overruns == 0
    assert result.stats.steps == 10


def test_a_long_tick_skips_slots_instead_of_hurrying_after_them(clock: SimClock, episode: Episode):
    source = FakeSource(busy(clock, 0.0, 0.25, 0.0, 0.11))
    result = episode(source=source, cfg=LoopCfg(fps=1 / PERIOD, max_steps=6))
    slots = np.round(np.array([o.t for o in source.seen]) / PERIOD, 6)
    np.testing.assert_allclose(slots, [0, 1, 4, 5, 7, 8])
    assert result.stats.overruns == 3
    assert result.stats.period_max_error_s == pytest.approx(0.2)


def test_the_wall_clock_schedule_does_not_drift():
    """4 ms of work a tick would add up to 100 ms if each tick were timed from the one before."""
    clock = MonotonicClock()
    arm, source = FakeArm(clock), FakeSource(lambda obs: time.sleep(0.004) or ArmCommand(obs.arm.q, 1.0))
    safety, cfg = JointSafety(arm.spec), LoopCfg(fps=50, max_steps=26)
    result = run_episode(arm=arm, cameras={}, source=source, safety=safety, clock=clock, cfg=cfg)
    slots = np.array([o.t - source.seen[0].t for o in source.seen]) * cfg.fps
    late = slots - np.floor(slots + 0.01)  # of a period; a busy machine wakes us late, but not every time
    assert late[-8:].min() < 0.15
    assert round(slots[-1]) == 25 + result.stats.overruns


def test_a_time_limit_truncates(episode: Episode, arm: FakeArm):
    result = episode()
    assert result.end == EpisodeEnd("time limit", terminated=False, success=None)
    assert arm.holding


def test_a_source_may_end_the_episode(episode: Episode, arm: FakeArm):
    result = episode(source=FakeSource(lambda obs: None if obs.t > 0.25 else ArmCommand(obs.arm.q, 0.0)))
    assert result.end == EpisodeEnd("source ended", terminated=False, success=None)
    assert result.stats.steps == len(arm.commands) == 3
    assert arm.holding


def test_a_judgement_ends_the_episode_before_the_next_command(episode: Episode, arm: FakeArm):
    end = EpisodeEnd("success", terminated=True, success=True)
    sink = FakeSink()
    result = episode(monitor=lambda obs: end if obs.t > 0.35 else None, sinks=(sink,))
    assert result.end is end
    assert result.stats.steps == len(arm.commands) == len(sink.steps) == 4
    assert sink.aborted is None


# --- what is passed on


def test_sinks_get_what_was_asked_what_was_sent_and_why_they_differ(clock: SimClock, episode: Episode):
    arm, sink = FakeArm(clock, clip_rad=0.05), FakeSink()
    safety = JointSafety(arm.spec, load_rig().safety)  # a twin's: the arm may jump, and lag behind
    goal = arm.q + np.array([0.4, 0, 0, 0, 0, 0, 0])

    result = episode(arm=arm, safety=safety, source=FakeSource(lambda obs: ArmCommand(goal, 1.7)), sinks=(sink,))
    for before, step in zip([None, *sink.steps], sink.steps, strict=False):
        np.testing.assert_array_equal(step.requested.q, goal)
        assert step.requested.gripper == 1.7
        assert step.executed.gripper == 1.0
        assert step.flags & SafetyFlag.GRIPPER_RANGE
        if before is not None:
            moved = step.executed.q[0] - before.executed.q[0]
            assert moved == pytest.approx(0.05) or step.executed.q[0] == pytest.approx(goal[0])
    assert sink.steps[0].flags == SafetyFlag.JOINT_SPEED | SafetyFlag.GRIPPER_RANGE
    assert sink.steps[-1].flags == SafetyFlag.GRIPPER_RANGE, "the filter follows its own commands, not the driver's"
    np.testing.assert_array_equal([s.executed.q for s in sink.steps], [c.q for c in arm.commands])
    assert result.stats.limited == 10


def test_frames_are_read_only_when_somebody_looks(clock: SimClock, episode: Episode):
    for source, sinks, reads in (
        (FakeSource(), (), 0),
        (FakeSource(frames=True), (), 10),
        (FakeSource(), (FakeSink(),), 10),
    ):
        camera = FakeCamera(clock)
        episode(cameras={"head": camera}, source=source, sinks=sinks)
        assert camera.calls["latest"] == reads
        assert all(bool(o.frames) == bool(reads) for o in source.seen)


def test_frames_are_fresh_at_every_tick(clock: SimClock, episode: Episode):
    source = FakeSource(frames=True)
    episode(cameras={"head": FakeCamera(clock), "front": FakeCamera(clock, "front", fps=15)}, source=source)
    for obs in source.seen:
        assert list(obs.frames) == ["head", "front"]
        assert 0 <= obs.t - obs.frames["head"].t < 1 / 30
        assert 0 <= obs.t - obs.frames["front"].t < 1 / 15


# --- what goes wrong


def test_a_fault_holds_the_arm_aborts_all_sinks_and_is_raised(clock: SimClock, episode: Episode):
    arm, sinks = FakeArm(clock, faults=[Fault("command", 3, DeviceFault("fr3", "reflex"))]), (FakeSink(), FakeSink())
    with pytest.raises(DeviceFault, match="reflex"):
        episode(arm=arm, sinks=sinks)
    assert arm.holding
    assert [len(s.steps) for s in sinks] == [3, 3]
    assert [s.aborted for s in sinks] == ["DeviceFault: fr3: reflex"] * 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError("in the policy"), SystemExit(2)])
def test_whatever_is_raised_the_arm_holds(arm: FakeArm, episode: Episode, error: BaseException):
    def fail(obs: Observation) -> ArmCommand:
        raise error

    sink = FakeSink()
    with pytest.raises(type(error)):
        episode(source=FakeSource(fail), sinks=(sink,))
    assert arm.holding and sink.aborted is not None


def test_an_arm_that_cannot_even_hold_does_not_keep_sinks_from_aborting(clock: SimClock, episode: Episode):
    gone = DeviceFault("fr3", "connection lost")
    arm = FakeArm(clock, faults=[Fault("read", 2, gone), Fault("hold", 0, DeviceFault("fr3", "no answer"))])
    sink = FakeSink()
    with pytest.raises(DeviceFault, match="connection lost") as caught:
        episode(arm=arm, sinks=(sink,))
    assert sink.aborted == "DeviceFault: fr3: connection lost"
    assert caught.value.__notes__ == ["the arm did not take the hold: fr3: no answer"]


def test_a_sink_that_fails_does_not_hide_the_first_error_or_the_other_sinks(arm: FakeArm, episode: Episode):
    bad = FakeSink([Fault("add", 1, DataError("disk full")), Fault("abort", 0, OSError("really full"))])
    good = FakeSink()
    with pytest.raises(DataError, match="disk full") as caught:
        episode(sinks=(bad, good))
    assert arm.holding and good.aborted == "DataError: disk full"
    assert caught.value.__notes__ == ["a sink could not abort: really full"]


def test_a_stale_camera_stops_the_episode_by_name(clock: SimClock, arm: FakeArm, episode: Episode):
    cameras = {"head": FakeCamera(clock), "front": FakeCamera(clock, "front", stalls_at=0.45)}
    sink = FakeSink()
    with pytest.raises(StaleReading, match=r"front: newest frame is 0\.\d+ s old, allowed is 0\.2 s"):
        episode(cameras=cameras, sinks=(sink,))
    assert arm.holding and sink.aborted is not None
    assert len(sink.steps) == 7, "the ticks before 0.65 s"


def test_an_unplugged_camera_stops_the_episode_by_name(clock: SimClock, arm: FakeArm, episode: Episode):
    unplugged = FakeCamera(clock, faults=[Fault("latest", 4, DeviceNotFound("head", "unplugged"))])
    with pytest.raises(DeviceNotFound, match="head: unplugged"):
        episode(cameras={"head": unplugged}, source=FakeSource(frames=True))
    assert arm.holding
    assert len(arm.commands) == 4


def test_a_first_command_far_from_the_arm_moves_nothing(arm: FakeArm, episode: Episode):
    with pytest.raises(SafetyStop, match="drive the arm to the start pose first"):
        episode(source=FakeSource(lambda obs: ArmCommand(obs.arm.q + 0.6, 1.0)))
    assert arm.commands == [] and arm.holding


# --- readings and decisions that are too old


def test_while_a_camera_stalls_the_arm_holds_and_then_engages_anew(clock: SimClock, arm: FakeArm, episode: Episode):
    """Half a second without frames is survived; the slots it took are overruns, and no step is made up for them."""
    camera, held = FakeCamera(clock), []

    class Stalling:
        spec = camera.spec

        def latest(self, *, max_age_s: float) -> RgbdFrame:
            if 0.25 < clock.now() < 0.65:
                held.append(arm.holding)
                raise StaleReading("head", "no new frame")
            return camera.latest(max_age_s=max_age_s)

    sink = FakeSink()
    result = episode(cameras={"head": Stalling()}, sinks=(sink,), cfg=LoopCfg(fps=1 / PERIOD, max_steps=6))
    assert held[0] is False and all(held[1:]) and len(held) > 10
    times = np.array([s.obs.t for s in sink.steps])
    assert not ((times > 0.25) & (times < 0.65)).any()
    assert (result.stats.steps, result.stats.overruns) == (6, 3)


def test_after_a_hold_a_command_far_from_the_arm_moves_nothing(clock: SimClock, arm: FakeArm, episode: Episode):
    """The source did not see that the arm stopped; what it wants now is compared with where the arm is."""
    camera = FakeCamera(clock)

    class Stalling:
        spec = camera.spec

        def latest(self, *, max_age_s: float) -> RgbdFrame:
            if 0.35 < clock.now() < 0.55:
                raise StaleReading("head", "no new frame")
            return camera.latest(max_age_s=max_age_s)

    start = arm.q.copy()
    source = FakeSource(lambda obs: ArmCommand(start + min(0.5, 1.0 * obs.t), 1.0), frames=True)
    with pytest.raises(SafetyStop, match="from the measured pose"):
        episode(cameras={"head": Stalling()}, source=source)
    assert len(arm.commands) == 4 and arm.holding


def test_a_decision_on_an_old_observation_is_not_followed(clock: SimClock, arm: FakeArm, episode: Episode):
    """It took 0.3 s to decide at the third tick, and the decisions of the sixth and seventh were made long ago."""
    sink, home = FakeSink(), arm.q.copy()
    durations = iter([0.0, 0.0, 0.3])

    class Old(FakeSource):
        def next(self, obs: Observation) -> Decision:
            self.seen.append(obs)
            clock.sleep_until(clock.now() + next(durations, 0.0))
            old = obs.t - 0.25 if len(self.seen) in (6, 7) else None
            return Decision(ArmCommand(home + 0.01, 1.0), ControlMode.POLICY, t=old)

    episode(source=Old(), sinks=(sink,))
    assert [i for i, s in enumerate(sink.steps) if s.flags & SafetyFlag.STALE] == [2, 5, 6]
    np.testing.assert_array_equal(sink.steps[-1].executed.q, home + 0.01)


# --- what a stop leaves behind


def test_a_stopped_filter_lets_no_episode_begin_until_an_operator_acknowledges(
    clock: SimClock, arm: FakeArm, episode: Episode
):
    safety = JointSafety(arm.spec)
    with pytest.raises(SafetyStop, match=r"joint5\.pos"):
        episode(safety=safety, source=FakeSource(nan_after(3)))
    sent = len(arm.commands)
    with pytest.raises(SafetyStop, match=r"acknowledge.*joint5\.pos"):
        episode(safety=safety)
    assert len(arm.commands) == sent and arm.holding
    safety.acknowledge()
    assert episode(safety=safety).stats.steps == 10


def test_a_stop_writes_the_black_box_with_the_command_that_caused_it(arm: FakeArm, episode: Episode, tmp_path: Path):
    with pytest.raises(SafetyStop):
        episode(source=FakeSource(nan_after(3)), black_box=BlackBox(tmp_path))
    (path,) = tmp_path.iterdir()
    read = read_black_box(path)
    assert re.match(r"SafetyStop: .*joint5\.pos", read.reason)
    np.testing.assert_allclose(read.rows["t"], PERIOD * np.arange(4))
    np.testing.assert_array_equal(np.isfinite(read.rows["sent"]).all(axis=1), [True, True, True, False])
    np.testing.assert_array_equal(np.isfinite(read.rows["requested"][-1]), np.arange(8) != 4)


def test_an_episode_that_ends_by_itself_writes_no_black_box(episode: Episode, tmp_path: Path):
    episode(black_box=BlackBox(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_disk_that_takes_no_black_box_does_not_hide_why_it_stopped(episode: Episode, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SafetyStop, match="joint5") as caught:
        episode(source=FakeSource(nan_after(3)), black_box=BlackBox(tmp_path / "file"))
    assert caught.value.__notes__[0].startswith("the black box could not be written: ")


# --- with the recorder


def nan_after(ticks: int) -> Callable[[Observation], ArmCommand]:
    def decide(obs: Observation) -> ArmCommand:
        q = obs.arm.q.copy()
        if obs.t > (ticks - 0.5) * PERIOD:
            q[4] = np.nan
        return ArmCommand(q, 0.5)

    return decide


def test_a_nan_action_stops_by_joint_and_leaves_an_episode_that_can_be_recovered(
    clock: SimClock, arm: FakeArm, episode: Episode, tmp_path: Path
):
    camera, spool, root = FakeCamera(clock, width=32, height=24), tmp_path / "spool", tmp_path / "dataset"
    schema = make_schema(fr3.SPEC, [camera.spec], 10)
    writer = SpoolWriter(spool, schema, task="t", seed=3, cfg=SpoolCfg(flush_every=2, sync=False))
    with pytest.raises(SafetyStop, match=r"not finite in joint5\.pos"):
        episode(source=FakeSource(nan_after(7)), cameras={"head": camera}, sinks=(writer,))
    assert arm.holding and len(arm.commands) == 7
    assert all(np.isfinite(c.q).all() for c in arm.commands)

    commit_spool(spool, root)
    assert not (root / "meta/info.json").exists(), "it is not a finished episode"
    (part,) = unfinished(spool)
    recovered = read_spool(recover_spool(part, EpisodeLabel("failure", terminated=False, failure_tag="policy NaN")))
    assert len(recovered) == 7
    assert np.isfinite(recovered.rows["action"]).all()
    assert recovered.header.seed == 3


def test_a_camera_that_the_dataset_has_and_the_rig_lacks_is_named(
    clock: SimClock, arm: FakeArm, episode: Episode, tmp_path: Path
):
    head, front = FakeCamera(clock, width=32, height=24), FakeCamera(clock, "front", width=32, height=24)
    schema = make_schema(fr3.SPEC, [head.spec, front.spec], 10)
    writer = SpoolWriter(tmp_path, schema, task="t", cfg=SpoolCfg(sync=False))
    with pytest.raises(DataError, match=r"no frame of camera 'front' .* it has \['head'\]"):
        episode(cameras={"head": head}, sinks=(writer,))
    assert arm.holding
    assert not list(tmp_path.glob("*.h5")), "nothing was recorded, so nothing lies around"
