"""Grasping is contact and friction, nothing else: things fall, slip, roll and are pushed."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from armflow.robot.twin.cell import Cell, Episode
from armflow.robot.twin.objects import Bowl
from armflow.robot.twin.tasks import PEACH, get_task

Drive = Callable[[Episode, Sequence[tuple[Any, float, int]]], None]

OPEN, CLOSED = 1.0, 0.0
RADIUS = PEACH.radius


def on_the_table(cell: Cell, xy: tuple[float, float] = (0.5, 0.1), friction: float | None = None) -> Episode:
    """Only the peach is near; the vessel stands out of the way."""
    episode = cell.reset(get_task("pick_peach"), 0)
    target = episode.layout.target.name
    if friction is not None:
        episode.twin.model.geom_friction[:] = friction
    poses = {"peach": np.array([*xy, 0.0005, 1, 0, 0, 0]), target: np.array([0.5, -0.3, 0.0005, 1, 0, 0, 0])}
    episode.twin.place(poses, episode.layout.home_q)
    episode.safety.reset(episode.arm.read())
    return episode


def grasp(episode: Episode, drive: Drive, lift_m: float = 0.2) -> None:
    x, y, z = episode.world.position("peach") + (0, 0, RADIUS)
    drive(
        episode,
        [((x, y, 0.15), OPEN, 15), ((x, y, z), OPEN, 8), ((x, y, z), CLOSED, 6), ((x, y, z + lift_m), CLOSED, 10)],
    )


def test_nothing_in_the_model_can_be_welded(cell: Cell):
    for task in ("pick_peach", "stack_bowls"):
        model = cell.reset(get_task(task), 0).twin.model
        assert model.neq == 0, "no weld or connect constraint"
        assert model.ntendon == 0
        assert model.nu == 9, "motors for joints and fingers, none for things"
        assert model.nmocap == 0


def test_a_closed_gripper_lifts_the_peach_and_an_open_one_drops_it(cell: Cell, drive: Drive):
    episode = on_the_table(cell)
    grasp(episode, drive)
    assert episode.world.held("peach")
    assert episode.world.position("peach")[2] > 0.17
    assert 0.6 < episode.world.opening() < 0.85, "the fingers stop at the fruit"

    where = episode.world.tcp()[:3, 3]
    drive(episode, [(where, OPEN, 6)])
    assert not episode.world.touched_by_hand("peach")
    assert abs(episode.world.position("peach")[2]) < 0.01, "it fell onto the table"
    assert np.linalg.norm(episode.world.tcp()[:3, 3] - where) < 0.01, "and the hand stayed"


def test_falling_takes_the_time_that_gravity_needs(cell: Cell):
    episode = on_the_table(cell)
    address = episode.twin.model.joint("peach").qposadr[0]
    episode.twin.data.qpos[address + 2] = 0.4
    heights = []
    start = cell.clock.now()
    for tick in range(1, 25):
        cell.clock.sleep_until(start + tick * 0.01)
        episode.twin.sync()
        heights.append(episode.world.position("peach")[2])
    expected = 0.4 - 0.5 * 9.81 * (0.01 * np.arange(1, 25)) ** 2
    np.testing.assert_allclose(heights, expected, atol=0.005)


def test_closing_beside_the_peach_lifts_nothing(cell: Cell, drive: Drive):
    episode = on_the_table(cell)
    x, y, z = episode.world.position("peach") + (0.07, 0, RADIUS)
    drive(episode, [((x, y, 0.15), OPEN, 15), ((x, y, z), OPEN, 8), ((x, y, z), CLOSED, 8), ((x, y, 0.2), CLOSED, 8)])
    assert episode.world.position("peach")[2] < 0.01
    assert episode.world.opening() < 0.05


def test_a_closed_gripper_pushes_the_peach_along(cell: Cell, drive: Drive):
    episode = on_the_table(cell)
    start = episode.world.position("peach")
    x, y, z = start + (-0.09, 0, RADIUS)
    drive(episode, [((x, y, 0.15), CLOSED, 15), ((x, y, z), CLOSED, 8)])
    np.testing.assert_allclose(episode.world.position("peach"), start, atol=0.002)
    drive(episode, [((x + 0.13, y, z), CLOSED, 8)])
    moved = episode.world.position("peach") - start
    assert moved[0] > 0.03
    assert moved[2] < 0.01


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_grasp_survives_acceleration(cell: Cell, drive: Drive, axis: int):
    """To and fro at 0.3 m/s, turned round within a control period: about 6 m/s^2, more than the tasks need."""
    episode = on_the_table(cell)
    grasp(episode, drive)
    before = episode.world.position("peach") - episode.world.tcp()[:3, 3]
    centre, swing = episode.world.tcp()[:3, 3], np.zeros(3)
    swing[axis] = 0.09
    drive(episode, [(centre + sign * swing, CLOSED, 4) for sign in (1, -1, 1, -1, 1, -1)])
    assert episode.world.held("peach")
    after = episode.world.position("peach") - episode.world.tcp()[:3, 3]
    # The fingers are not geared together: a jerk along y, their axis, shifts both of them.
    assert (np.abs(after - before) < (0.004, 0.02, 0.004)).all()


def test_a_grasp_lasts(cell: Cell, drive: Drive):
    episode = on_the_table(cell)
    grasp(episode, drive)
    where, height = episode.world.tcp()[:3, 3], episode.world.position("peach")[2]
    drive(episode, [(where, CLOSED, 100)])
    assert episode.world.held("peach")
    assert episode.world.position("peach")[2] == pytest.approx(height, abs=0.006), "ten seconds"


def test_without_friction_there_is_no_grasp(cell: Cell, drive: Drive):
    episode = on_the_table(cell)
    usual = episode.twin.model.geom_friction.copy()
    try:
        episode = on_the_table(cell, friction=1e-4)
        grasp(episode, drive)
        assert not episode.world.held("peach")
        assert episode.world.position("peach")[2] < 0.05
    finally:
        episode.twin.model.geom_friction[:] = usual


def test_a_bowl_is_lifted_by_its_rim(cell: Cell, drive: Drive):
    episode = cell.reset(get_task("stack_bowls"), 0)
    bowl = episode.layout.movable
    assert isinstance(bowl, Bowl)
    x, y, _ = episode.world.position(bowl.name)
    at = np.array([x, y + bowl.rim_radius + 0.0025, bowl.height - 0.014])
    drive(episode, [((*at[:2], 0.15), OPEN, 20), (at, OPEN, 8), (at, CLOSED, 8), ((*at[:2], 0.2), CLOSED, 8)])
    assert episode.world.position(bowl.name)[2] > 0.1
    assert episode.world.held(bowl.name)


def test_a_bowl_keeps_things_inside(cell: Cell):
    """A peach let go over a bowl ends up in it, not through it."""
    episode = cell.reset(get_task("pick_peach"), 0)
    target = episode.layout.target
    for dx in (0.0, 0.03):
        poses = {
            target.name: np.array([0.5, 0.0, 0.0005, 1, 0, 0, 0]),
            "peach": np.array([0.5 + dx, 0, 0.1, 1, 0, 0, 0]),
        }
        episode.twin.place(poses, episode.layout.home_q)
        start = cell.clock.now()
        cell.clock.sleep_until(start + 2)
        episode.twin.sync()
        offset = episode.world.position("peach") - episode.world.position(target.name)
        assert np.hypot(*offset[:2]) < target.rim_radius
        assert offset[2] > 0.005
        assert episode.world.speed("peach") < 0.02


def test_things_at_rest_stay_at_rest(cell: Cell):
    for task in ("pick_peach", "stack_bowls"):
        episode = cell.reset(get_task(task), 3)
        names = list(episode.layout.poses)
        before = [episode.world.position(n) for n in names]
        cell.clock.sleep_until(cell.clock.now() + 5)
        episode.twin.sync()
        for name, start in zip(names, before, strict=True):
            np.testing.assert_allclose(episode.world.position(name), start, atol=0.001)
            assert episode.world.uprightness(name) > 0.999
