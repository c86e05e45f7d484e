"""The contract of arms and cameras, for every kind there is: what the control loop relies on."""

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from armflow.robot.arm import ArmDriver
from armflow.robot.camera import Camera
from armflow.robot.clock import SimClock
from armflow.robot.errors import StaleReading
from armflow.robot.fakes import FakeArm, FakeCamera
from armflow.robot.rig import Rig
from armflow.robot.twin.cell import Cell
from armflow.robot.twin.tasks import get_task
from armflow.robot.types import ArmCommand

Advance = Callable[[float], None]


@pytest.fixture
def advance(clock: SimClock) -> Advance:
    """Let seconds pass."""
    return lambda seconds: clock.sleep_until(clock.now() + seconds)


@pytest.fixture
def twin(rig: Rig, clock: SimClock) -> Iterator[tuple[ArmDriver, Camera]]:
    with Cell(rig, clock) as cell:
        episode = cell.reset(get_task("pick_peach"), 0)
        yield episode.arm, episode.cameras["head"]


@pytest.fixture(params=["fake", "twin"])
def arm(request: pytest.FixtureRequest, clock: SimClock) -> ArmDriver:
    return FakeArm(clock) if request.param == "fake" else request.getfixturevalue("twin")[0]


@pytest.fixture(params=["fake", "twin"])
def camera(request: pytest.FixtureRequest, clock: SimClock) -> Camera:
    return FakeCamera(clock) if request.param == "fake" else request.getfixturevalue("twin")[1]


def test_a_reading_is_complete_finite_and_of_now(arm: ArmDriver, clock: SimClock, advance: Advance):
    advance(0.25)
    state, dof = arm.read(), arm.spec.dof
    assert state.t == clock.now()
    for values in (state.q, state.dq, state.effort):
        assert values.shape == (dof,) and values.dtype == np.float64 and np.isfinite(values).all()
    assert 0 <= state.gripper <= 1.01
    assert (state.q > arm.spec.q_min).all() and (state.q < arm.spec.q_max).all()
    assert state.vector.shape == (dof + 1,) and state.vector.dtype == np.float32


def test_a_reading_does_not_change_afterwards(arm: ArmDriver, advance: Advance):
    state = arm.read()
    before = state.q.copy()
    arm.command(ArmCommand(state.q + 0.1, 0.0))
    advance(0.5)
    arm.read()
    np.testing.assert_array_equal(state.q, before)


def test_a_command_is_followed_and_its_answer_is_what_was_sent(arm: ArmDriver, advance: Advance):
    goal = arm.read().q + 0.05
    sent = arm.command(ArmCommand(goal, 0.25))
    np.testing.assert_array_equal(sent.q, goal)
    assert sent.gripper == 0.25
    advance(1.0)
    state = arm.read()
    np.testing.assert_allclose(state.q, goal, atol=0.005)
    assert state.gripper == pytest.approx(0.25, abs=0.05)


def test_a_command_may_be_changed_by_its_owner_afterwards(arm: ArmDriver, advance: Advance):
    """Sources reuse arrays; an arm that only kept a reference would follow them."""
    goal = arm.read().q + 0.05
    mine = goal.copy()
    sent = arm.command(ArmCommand(mine, 1.0))
    mine += 0.5
    np.testing.assert_allclose(sent.q, goal)
    advance(1.0)
    np.testing.assert_allclose(arm.read().q, goal, atol=0.005)


def test_hold_is_idempotent_from_any_thread(arm: ArmDriver, advance: Advance):
    q = arm.read().q
    threads = [threading.Thread(target=arm.hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    arm.hold()
    advance(0.5)
    np.testing.assert_allclose(arm.read().q, q, atol=0.005)


def test_a_frame_is_what_the_spec_says(camera: Camera, clock: SimClock, advance: Advance):
    advance(1.0)
    frame, spec = camera.latest(max_age_s=0.2), camera.spec
    assert frame.rgb.shape == (spec.height, spec.width, 3) and frame.rgb.dtype == np.uint8
    assert frame.depth_mm.shape == (spec.height, spec.width) and frame.depth_mm.dtype == np.uint16
    assert -1e-9 <= clock.now() - frame.t < 1 / spec.fps + 0.002
    assert spec.K.shape == (3, 3) and spec.X_BC.shape == (4, 4)


def test_frame_numbers_count_frames(camera: Camera, advance: Advance):
    first = camera.latest(max_age_s=0.2)
    advance(1.0)
    later = camera.latest(max_age_s=0.2)
    assert later.frame_number - first.frame_number == round(camera.spec.fps)
    assert later.t - first.t == pytest.approx(1.0, abs=0.002)


def test_a_frame_older_than_allowed_is_an_error(camera: Camera, advance: Advance):
    advance(1.02)  # between two frames
    with pytest.raises(StaleReading, match="old, allowed is 0.001 s") as caught:
        camera.latest(max_age_s=0.001)
    assert caught.value.device == "head"
