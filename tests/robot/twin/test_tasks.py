"""Where things stand at the start, and what the judge says at the end."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from armflow.robot import fr3
from armflow.robot.control import observe
from armflow.robot.errors import ConfigError
from armflow.robot.rig import load_rig
from armflow.robot.safety import SafetyCfg
from armflow.robot.twin.cell import Cell, Episode, episode_rng
from armflow.robot.twin.task import MILESTONES, REACH_X, REACH_Y, Layout, inside_radius
from armflow.robot.twin.tasks import CLEARANCE, PLATE, TASKS, WHITE_BOWL, X_RANGE, Y_RANGE, get_task
from hypothesis import given
from hypothesis import strategies as st

Drive = Callable[[Episode, Sequence[tuple[Any, float, int]]], None]

any_seed = st.integers(0, 2**31 - 1)
HOME = np.array(load_rig().arm.home_q)


def layout(task: str, seed: int) -> Layout:
    return get_task(task).layout(episode_rng(get_task(task), seed), HOME)


# --- layouts


@pytest.mark.parametrize("task", TASKS)
@given(seed=any_seed)
def test_things_start_in_their_ranges_upright_and_apart(task: str, seed: int):
    drawn = layout(task, seed)
    assert [t.name for t in drawn.things] == [drawn.movable.name, drawn.target.name] == list(drawn.poses)
    radii = [getattr(t, "radius", None) or getattr(t, "rim_radius") for t in drawn.things]  # noqa: B009
    a, b = drawn.poses.values()
    for pose in (a, b):
        assert X_RANGE[0] <= pose[0] <= X_RANGE[1] and Y_RANGE[0] <= pose[1] <= Y_RANGE[1]
        assert np.linalg.norm(pose[3:]) == pytest.approx(1)
        assert pose[4] == pose[5] == 0, "turned about the vertical only"
    assert np.hypot(*(a - b)[:2]) - sum(radii) >= CLEARANCE


@pytest.mark.parametrize("task", TASKS)
@given(seed=any_seed)
def test_the_arm_starts_near_home_and_within_what_the_filter_allows(task: str, seed: int):
    q, margin = layout(task, seed).home_q, SafetyCfg().joint_margin_rad
    assert np.abs(q - HOME).max() < 0.2
    assert (q > fr3.SPEC.q_min + margin).all() and (q < fr3.SPEC.q_max - margin).all()


@pytest.mark.parametrize("task", TASKS)
def test_starts_cover_the_table(task: str):
    drawn = [layout(task, seed) for seed in range(300)]
    for name in ("movable", "target"):
        at = np.array([d.poses[getattr(d, name).name][:2] for d in drawn])
        assert (np.ptp(at, axis=0) > 0.9 * np.array([X_RANGE[1] - X_RANGE[0], Y_RANGE[1] - Y_RANGE[0]])).all()
        assert (np.abs(at.mean(axis=0) - (np.mean(X_RANGE), np.mean(Y_RANGE))) < 0.03).all()


def test_bowl_and_plate_both_occur_and_the_words_agree():
    drawn = [layout("pick_peach", seed) for seed in range(300)]
    for target, words in ((WHITE_BOWL, "put the peach in the bowl"), (PLATE, "put the peach on the plate")):
        these = [d for d in drawn if d.target is target]
        assert 0.4 < len(these) / len(drawn) < 0.6
        assert {d.instruction for d in these} == {words}
    assert {layout("stack_bowls", s).instruction for s in range(20)} == {"stack the green bowl in the purple bowl"}


def test_two_tasks_do_not_share_their_luck():
    a, b = (np.array([list(layout(t, s).poses.values())[0][:2] for s in range(200)]) for t in TASKS)
    for i in range(2):
        assert abs(np.corrcoef(a[:, i], b[:, i])[0, 1]) < 0.25


def test_a_task_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="no task 'fold_towel'; tasks: pick_peach, stack_bowls"):
        get_task("fold_towel")


# --- judge


def upright(x: float, y: float, z: float = 0.0) -> np.ndarray:
    return np.array([x, y, z, 1, 0, 0, 0])


def judged(cell: Cell, task: str, seed: int, poses: Mapping[str, np.ndarray], *, wait_s: float = 1.0) -> Episode:
    """The episode with things put elsewhere; a moment later, once judged."""
    episode = cell.reset(get_task(task), seed)
    episode.twin.place({**episode.layout.poses, **poses}, episode.layout.home_q)
    cell.clock.sleep_until(cell.clock.now() + wait_s)
    episode.judge(observe(episode.arm, {}, cell.clock, 1.0))
    return episode


def judged_at_once(cell: Cell, seed: int, poses: Mapping[str, np.ndarray]) -> Episode:
    """The same, before anything has time to fall."""
    episode = cell.reset(get_task("pick_peach"), seed)
    for name, where in poses.items():
        address = episode.twin.model.joint(name).qposadr[0]
        episode.twin.data.qpos[address : address + 7] = where
    cell.clock.sleep_until(cell.clock.now() + 0.002)
    episode.judge(observe(episode.arm, {}, cell.clock, 1.0))
    return episode


def seed_with(target: str) -> int:
    return next(s for s in range(50) if layout("pick_peach", s).target.name == target)


BOWL_SEED, PLATE_SEED = seed_with("bowl"), seed_with("plate")
IN_TARGET = {
    "bowl": ("pick_peach", BOWL_SEED, {"bowl": upright(0.5, 0), "peach": upright(0.5, 0, 0.012)}),
    "plate": ("pick_peach", PLATE_SEED, {"plate": upright(0.5, 0), "peach": upright(0.5, 0, 0.012)}),
    "nested": ("stack_bowls", 0, {"large_bowl": upright(0.5, 0), "small_bowl": upright(0.5, 0, 0.02)}),
}


@pytest.mark.parametrize("case", IN_TARGET)
def test_resting_in_the_target_is_success_without_reservations(cell: Cell, case: str):
    episode = judged(cell, *IN_TARGET[case])
    status = episode.judge.status
    assert status.success, status.reasons
    assert status.reasons == "" and status.failure is None
    assert episode.judge.milestone == len(MILESTONES)
    end = episode.judge(observe(episode.arm, {}, cell.clock, 1.0))
    assert end is not None and end.terminated and end.success


@pytest.mark.parametrize("target", ["bowl", "plate"])
@pytest.mark.parametrize("angle_deg", [45, 90, 180])
def test_a_peach_that_has_rolled_over_lies_in_the_target_all_the_same(cell: Cell, target: str, angle_deg: float):
    radius, angle = 0.031, np.deg2rad(angle_deg)
    origin = (0.5, radius * np.sin(angle), 0.012 + radius - radius * np.cos(angle))
    rolled = np.array([*origin, np.cos(angle / 2), np.sin(angle / 2), 0, 0])
    task, seed, poses = IN_TARGET[target]
    episode = judged(cell, task, seed, {**poses, "peach": rolled})
    assert episode.world.uprightness("peach") == pytest.approx(np.cos(angle), abs=0.1)
    np.testing.assert_allclose(episode.world.position("peach"), (0.5, 0, 0.011), atol=0.003)
    assert episode.judge.status.success, episode.judge.status.reasons


def test_a_start_is_neither_success_nor_failure_and_says_what_is_missing(cell: Cell):
    for task in TASKS:
        episode = cell.reset(get_task(task), 1)
        assert episode.judge(observe(episode.arm, {}, cell.clock, 1.0)) is None
        assert "inside: " in episode.judge.status.reasons and "cm off centre, allowed" in episode.judge.status.reasons
        assert episode.judge.milestone == 0


def test_beside_the_target_is_off_centre(cell: Cell):
    episode = judged(cell, "pick_peach", PLATE_SEED, {"plate": upright(0.5, 0), "peach": upright(0.5, 0.15)})
    assert not episode.judge.status.success
    assert "15.0 cm off centre, allowed 9.5" in episode.judge.status.reasons


def test_a_bowl_that_leans_on_the_other_is_not_stacked(cell: Cell):
    tilt = np.deg2rad(50)
    leaning = np.array([0.5, 0.05, 0.03, np.cos(tilt / 2), np.sin(tilt / 2), 0, 0])
    episode = judged(cell, "stack_bowls", 0, {"large_bowl": upright(0.5, 0), "small_bowl": leaning})
    assert not episode.judge.status.success


def test_under_the_target_is_not_in_it(cell: Cell):
    """The peach is inside the radius, but below."""
    episode = judged_at_once(cell, PLATE_SEED, {"plate": upright(0.5, 0, 0.2), "peach": upright(0.5, 0)})
    assert not episode.judge.status.success
    assert "depth: " in episode.judge.status.reasons


def test_a_moving_thing_is_not_placed_yet(cell: Cell):
    episode = judged(cell, *IN_TARGET["plate"])
    episode.twin.data.qvel[episode.twin.model.joint("peach").dofadr[0]] = 0.2
    episode.judge(observe(episode.arm, {}, cell.clock, 1.0))
    assert not episode.judge.status.success
    assert episode.judge.status.reasons == "resting: moving at 0.20 m/s"


def test_a_held_thing_is_not_placed_yet(cell: Cell, drive: Drive):
    episode = judged(cell, *IN_TARGET["bowl"])
    x, y, z = episode.world.position("peach") + (0, 0, 0.031)
    drive(episode, [((x, y, 0.2), 1.0, 12), ((x, y, z), 1.0, 8)])
    episode.judge(observe(episode.arm, {}, cell.clock, 1.0))
    assert episode.judge.status.success, "open fingers around it do not touch it"
    drive(episode, [((x, y, z), 0.0, 6)])
    episode.judge(observe(episode.arm, {}, cell.clock, 1.0))
    assert episode.world.held("peach")
    assert not episode.judge.status.success
    assert "released: the hand still touches it" in episode.judge.status.reasons


@pytest.mark.parametrize(("angle_deg", "ends"), [(0, False), (20, False), (50, True), (90, True), (180, True)])
def test_a_tipped_target_is_a_failure(cell: Cell, angle_deg: float, ends: bool):
    half = np.deg2rad(angle_deg) / 2
    tipped = np.array([0.5, 0.0, 0.1, np.cos(half), np.sin(half), 0, 0])
    episode = judged_at_once(cell, BOWL_SEED, {"bowl": tipped, "peach": upright(0.4, 0.2)})
    end = episode.judge(observe(episode.arm, {}, cell.clock, 1.0))
    assert not episode.judge.status.success
    if ends:
        assert end is not None and end.terminated and end.success is False and end.reason == "target tipped over"
    else:
        assert end is None


@pytest.mark.parametrize("at", [(0.20, 0.0), (0.80, 0.0), (0.5, 0.47), (0.5, -0.47)])
@pytest.mark.parametrize("name", ["peach", "plate"])
def test_what_the_arm_cannot_get_at_is_a_failure(cell: Cell, name: str, at: tuple[float, float]):
    assert not (REACH_X[0] < at[0] < REACH_X[1] and REACH_Y[0] < at[1] < REACH_Y[1])
    episode = judged(
        cell, "pick_peach", PLATE_SEED, {"peach": upright(0.5, 0.2), "plate": upright(0.5, 0), name: upright(*at)}
    )
    end = episode.judge(observe(episode.arm, {}, cell.clock, 1.0))
    assert end is not None and end.terminated and end.success is False
    assert end.reason == f"{name} out of reach"


def test_nested_bowls_need_to_be_centred(cell: Cell):
    bowls = get_task("stack_bowls").layout(np.random.default_rng(0), HOME)
    assert inside_radius(bowls.movable, bowls.target) == 0.02
    assert inside_radius(layout("pick_peach", PLATE_SEED).movable, PLATE) == PLATE.rim_radius


def test_milestones_are_reached_in_order_and_never_lost(cell: Cell, drive: Drive):
    episode = cell.reset(get_task("pick_peach"), BOWL_SEED)
    reached = []

    def judge() -> None:
        episode.judge(observe(episode.arm, {}, cell.clock, 1.0))
        reached.append(episode.judge.milestone)

    def go(position: np.ndarray, gripper: float, ticks: int) -> None:
        drive(episode, [(position, gripper, ticks)])
        judge()

    peach, bowl = (episode.world.position(n) for n in ("peach", "bowl"))
    at = peach + (0, 0, 0.031)
    judge()
    go(np.array([*at[:2], 0.17]), 1.0, 20)
    go(at, 1.0, 8)
    go(at, 0.0, 6)
    go(at + (0, 0, 0.14), 0.0, 8)
    go(np.array([*bowl[:2], 0.17]), 0.0, 20)
    go(np.array([*bowl[:2], 0.08]), 0.0, 8)
    go(np.array([*bowl[:2], 0.08]), 1.0, 6)
    go(np.array([*bowl[:2], 0.25]), 1.0, 10)
    assert reached == sorted(reached)
    assert reached[0] == 0 and 2 in reached and 3 in reached and 4 in reached
    assert reached[-1] == len(MILESTONES)
    # Knocked out again: the score of what was reached stays.
    address = episode.twin.model.joint("peach").qposadr[0]
    episode.twin.data.qpos[address : address + 3] = (0.4, 0.2, 0.0)
    cell.clock.sleep_until(cell.clock.now() + 0.1)
    judge()
    assert not episode.judge.status.success
    assert reached[-1] == len(MILESTONES)
