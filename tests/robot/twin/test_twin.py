"""The twin behaves like a device: repeatable to the bit, following a clock, and no better than its servos."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from armflow.robot import fr3
from armflow.robot.clock import Clock, MonotonicClock, SimClock
from armflow.robot.control import LoopCfg, Step, run_episode
from armflow.robot.errors import DeviceFault
from armflow.robot.fakes import FakeSink, FakeSource
from armflow.robot.rig import Rig
from armflow.robot.twin.cell import Cell, Episode
from armflow.robot.twin.tasks import get_task
from armflow.robot.types import ArmCommand, Observation

PEACH, BOWLS = get_task("pick_peach"), get_task("stack_bowls")


HOME = np.array((0.0, -0.3192, 0.0, -2.6613, 0.0, 2.3421, 0.7854))


def wave(cell: Cell, episode: Episode, ticks: int = 15, *, images: bool = True) -> list[Step]:
    """Drive an episode with commands that depend on nothing but the tick: a slow wave of all joints."""
    phases, sink = iter(0.2 * np.arange(ticks)), FakeSink()

    def waving(_: Observation) -> ArmCommand:
        phase = next(phases)
        return ArmCommand(HOME + 0.1 * np.sin(phase) * np.array([1, -1, 1, 1, -1, 1, 1]), 0.5 + 0.5 * np.cos(phase / 2))

    run_episode(
        arm=episode.arm,
        cameras=episode.cameras if images else {},
        source=FakeSource(waving),
        safety=episode.safety,
        clock=cell.clock,
        cfg=LoopCfg(max_steps=ticks),
        sinks=(sink,),
    )
    return sink.steps


def same(a: list[Step], b: list[Step]) -> bool:
    """Bit for bit, sensor noise included."""
    return len(a) == len(b) and all(
        np.array_equal(x.obs.arm.q, y.obs.arm.q)
        and np.array_equal(x.obs.arm.dq, y.obs.arm.dq)
        and np.array_equal(x.obs.arm.effort, y.obs.arm.effort)
        and x.obs.arm.gripper == y.obs.arm.gripper
        and x.obs.frames.keys() == y.obs.frames.keys()
        and all(
            np.array_equal(f.rgb, y.obs.frames[n].rgb) and np.array_equal(f.depth_mm, y.obs.frames[n].depth_mm)
            for n, f in x.obs.frames.items()
        )
        for x, y in zip(a, b, strict=True)
    )


# --- repeatable


def test_the_same_task_and_seed_are_the_same_episode_to_the_bit(rig: Rig):
    with Cell(rig) as one, Cell(rig) as other:
        first = wave(one, one.reset(PEACH, 7))
        wave(other, other.reset(BOWLS, 3))
        wave(other, other.reset(PEACH, 8))
        assert same(first, wave(other, other.reset(PEACH, 7))), "whatever the cell did before"
        assert same(first, wave(one, one.reset(PEACH, 7))), "and again"
    assert len(first) == 15 and len(first[0].obs.frames) == 2


def test_another_seed_or_task_is_another_episode(rig: Rig):
    with Cell(rig) as cell:
        layouts = [cell.reset(task, seed).layout for task, seed in ((PEACH, 7), (PEACH, 8), (BOWLS, 7))]
        starts = [np.concatenate([layout.home_q, *layout.poses.values()]) for layout in layouts]
        assert len({s.round(6).tobytes() for s in starts}) == 3
        a, b = (wave(cell, cell.reset(PEACH, seed), 2) for seed in (7, 8))
        assert not np.array_equal(a[0].obs.frames["head"].rgb, b[0].obs.frames["head"].rgb)


def test_cells_side_by_side_do_not_disturb_each_others_images(rig: Rig):
    def pictures(episode: Episode) -> list[np.ndarray]:
        return [c.latest(max_age_s=1.0).rgb for c in episode.cameras.values()]

    with Cell(rig) as one, Cell(rig) as other:
        alone = [pictures(one.reset(PEACH, 1)), pictures(other.reset(BOWLS, 2))]
        for cell, task, seed, expected in ((one, PEACH, 1, alone[0]), (other, BOWLS, 2, alone[1])) * 2:
            for picture, first in zip(pictures(cell.reset(task, seed)), expected, strict=True):
                np.testing.assert_array_equal(picture, first)
        assert not np.array_equal(alone[0][0], alone[1][0])


def test_two_readings_differ_by_the_rigs_noise(rig: Rig):
    with Cell(rig) as cell:
        arm = cell.reset(PEACH, 0).arm
        q = np.array([arm.read().q for _ in range(300)])
        dq = np.array([arm.read().dq for _ in range(300)])
    np.testing.assert_allclose(q.std(axis=0), rig.twin.q_noise_rad, rtol=0.2)
    np.testing.assert_allclose(dq.std(axis=0), rig.twin.dq_noise_rad_s, rtol=0.2)


# --- time


def test_real_time_follows_the_wall_and_moves_alike(rig: Rig):
    def drive(clock: Clock) -> tuple[np.ndarray, np.ndarray, float]:
        with Cell(rig, clock) as cell:
            episode = cell.reset(PEACH, 7)
            start = cell.clock.now()
            steps = wave(cell, episode, 15, images=False)
            times = np.array([s.obs.arm.t for s in steps]) - start
            return (
                times,
                np.array([s.obs.arm.q for s in steps]),
                cell.clock.now() - episode.twin.wall_time(episode.twin.data.time),
            )

    began = time.monotonic()
    t_sim, q_sim, _ = drive(SimClock())
    assert time.monotonic() - began < 1.4, "as fast as possible is faster than the wall"
    began = time.monotonic()
    t_wall, q_wall, behind = drive(MonotonicClock())
    assert time.monotonic() - began >= 1.4
    assert -0.01 < behind < 0.2, "physics has caught up with the wall"
    for column, reference in zip(q_wall.T, q_sim.T, strict=True):
        np.testing.assert_allclose(column, np.interp(t_wall, t_sim, reference), atol=0.03)


@pytest.mark.parametrize("latency", [0.0, 0.01, 0.06])
def test_a_command_takes_effect_after_the_rigs_latency(rig: Rig, latency: float):
    quiet = replace(rig.twin, command_latency_s=latency, q_noise_rad=0.0)
    with Cell(replace(rig, twin=quiet)) as cell:
        episode = cell.reset(PEACH, 0)
        cell.clock.sleep_until(0.2)
        q = episode.arm.read().q
        episode.arm.command(ArmCommand(q + 0.1, 1.0))
        times, moved = np.arange(0, 100) * 0.002, list[float]()
        for t in times:
            cell.clock.sleep_until(0.2 + t)
            moved.append(float(np.abs(episode.arm.read().q - q).max()))
    start = times[int(np.argmax(np.array(moved) > 1e-4))]
    assert latency <= start <= latency + 0.025, "then inertia"
    assert max(moved) == pytest.approx(0.1, abs=0.02)


def test_a_target_is_reached_when_the_next_command_is_due_not_at_once(rig: Rig):
    with Cell(rig) as cell:
        episode = cell.reset(PEACH, 0)
        q = episode.arm.read().q
        episode.arm.command(ArmCommand(q + 0.1, 1.0))
        cell.clock.sleep_until(0.06)  # 10 ms latency, then half the period
        assert 0.2 < (episode.arm.read().q - q).mean() / 0.1 < 0.6
        cell.clock.sleep_until(0.16)
        assert (episode.arm.read().q - q).mean() / 0.1 == pytest.approx(1, abs=0.1)


# --- hold


def test_hold_stops_the_arm_and_drops_what_was_asked(rig: Rig):
    with Cell(rig) as cell:
        episode = cell.reset(PEACH, 0)
        start = episode.arm.read().q
        for tick in range(5):
            episode.arm.command(ArmCommand(start + 0.1 * (tick + 1), 1.0))
            cell.clock.sleep_until(0.1 * (tick + 1))
        episode.arm.command(ArmCommand(start + 1.0, 1.0))
        episode.arm.hold()
        held = episode.arm.read().q
        assert (held - start).min() > 0.3
        cell.clock.sleep_until(1.5)
        after = episode.arm.read()
        assert np.abs(after.q - held).max() < 0.06, "it was moving at 1 rad/s"
        assert np.abs(after.dq).max() < 0.02


def test_hold_is_idempotent_and_the_arm_obeys_afterwards(rig: Rig):
    with Cell(rig) as cell:
        arm = cell.reset(PEACH, 0).arm
        q = arm.read().q
        for _ in range(3):
            arm.hold()
        cell.clock.sleep_until(0.5)
        np.testing.assert_allclose(arm.read().q, q, atol=0.002)
        arm.command(ArmCommand(q + 0.05, 1.0))
        cell.clock.sleep_until(1.0)
        np.testing.assert_allclose(arm.read().q, q + 0.05, atol=0.002)


def test_hold_acts_now_not_when_the_twin_was_last_looked_at(rig: Rig):
    """In real time nobody may have looked for a while, for instance while a policy was thinking."""
    with Cell(rig) as cell:
        arm = cell.reset(PEACH, 0).arm
        q = arm.read().q
        arm.command(ArmCommand(q + 0.1, 1.0))
        cell.clock.sleep_until(0.5)
        arm.hold()
        np.testing.assert_allclose(arm.read().q, q + 0.1, atol=0.005)


def test_hold_may_come_from_any_thread(rig: Rig):
    with Cell(rig) as cell:
        episode = cell.reset(PEACH, 0)
        q, errors, done = episode.arm.read().q, list[BaseException](), threading.Event()

        def panic() -> None:
            try:
                while not done.is_set():
                    episode.arm.hold()
            except BaseException as error:
                errors.append(error)
                raise

        other = threading.Thread(target=panic)
        other.start()
        for tick in range(200):
            cell.clock.sleep_until(tick * 0.01)
            episode.arm.command(ArmCommand(q, 1.0))
            episode.arm.read()
        done.set()
        other.join()
        assert errors == []


# --- servo


def test_the_servo_tracks_a_sine(rig: Rig):
    """0.2 rad at 0.5 Hz on every joint, commanded at 10 Hz: it lags by the latency and half a period, and a little more."""
    quiet = replace(rig.twin, q_noise_rad=0.0)
    with Cell(replace(rig, twin=quiet)) as cell:
        episode = cell.reset(PEACH, 0)
        home, t, asked, measured = episode.arm.read().q, np.arange(60) / 10, list[np.ndarray](), list[np.ndarray]()
        for now in t:
            cell.clock.sleep_until(float(now))
            measured.append(episode.arm.read().q - home)
            asked.append(np.full(7, 0.2 * np.sin(2 * np.pi * 0.5 * now)))
            episode.arm.command(ArmCommand(home + asked[-1], 1.0))
    # A command is reached one period later, plus the latency.
    delayed = 0.2 * np.sin(2 * np.pi * 0.5 * (t - 0.1 - rig.twin.command_latency_s))
    error = np.abs(np.array(measured) - delayed[:, None])[20:]
    assert error.max() < 0.02
    assert np.abs(np.array(measured)[20:]).max() == pytest.approx(0.2, abs=0.02)


def test_the_gripper_opens_and_closes_at_the_speed_of_its_fingers(rig: Rig):
    with Cell(rig) as cell:
        episode = cell.reset(PEACH, 0)
        q = episode.arm.read().q
        episode.arm.command(ArmCommand(q, 0.0))
        openings = []
        for tick in range(60):
            cell.clock.sleep_until(tick * 0.01)
            openings.append(episode.arm.read().gripper)
    assert openings[0] == pytest.approx(1, abs=0.02)
    assert openings[-1] == pytest.approx(0, abs=0.02)
    slope = np.diff(openings).min() / 0.01 * fr3.SPEC.gripper_width_m
    assert slope == pytest.approx(-2 * fr3.DESCRIPTION.hand.speed, rel=0.3)


@pytest.fixture
def _log_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """MuJoCo writes its warnings to a file in the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_log_elsewhere")
def test_diverging_physics_end_the_episode_instead_of_jumping(rig: Rig):
    """MuJoCo resets a state that has become infinite, and things would be back where they started."""
    with Cell(rig) as cell:
        episode = cell.reset(PEACH, 0)
        episode.twin.data.qvel[10] = 1e12
        cell.clock.sleep_until(0.1)
        with pytest.raises(DeviceFault, match=r"twin: the physics diverged.*reset the cell"):
            episode.arm.read()
        with pytest.raises(DeviceFault):
            episode.arm.hold()
        cell.reset(PEACH, 0).arm.read()


@pytest.mark.usefixtures("_log_elsewhere")
def test_a_nan_that_gets_past_everything_is_a_fault(rig: Rig):
    with Cell(rig) as cell:
        episode = cell.reset(PEACH, 0)
        episode.arm.command(ArmCommand(np.full(7, np.nan), 1.0))
        cell.clock.sleep_until(0.1)
        with pytest.raises(DeviceFault, match="diverged"):
            episode.arm.read()


def test_a_closed_cell_can_be_closed_again_and_reopened(rig: Rig):
    cell = Cell(rig)
    with cell:
        cell.reset(PEACH, 0).cameras["head"].latest(max_age_s=1.0)
    cell.__exit__()
    with cell:
        assert cell.reset(PEACH, 0).cameras["head"].latest(max_age_s=1.0).rgb.mean() > 30
