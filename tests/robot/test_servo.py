"""The servo turns jumps into paths, brakes when targets stop coming, and keeps what went wrong."""

import threading
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from armflow.robot import fr3
from armflow.robot.clock import MonotonicClock, SimClock
from armflow.robot.drivers.franka import FrankaCfg
from armflow.robot.errors import ConfigError, DeviceFault, SafetyStop, StaleReading
from armflow.robot.interpolator import Setpoint
from armflow.robot.servo import MAX_STEP_S, Servo, ServoCfg

LIMITS = FrankaCfg("nowhere").limits(fr3.SPEC)
Q0 = (LIMITS.q_min + LIMITS.q_max) / 2
PERIOD_S = 0.005


class Arm:
    """Takes setpoints; `fail` makes it raise."""

    def __init__(self) -> None:
        self.sent: list[Setpoint] = []
        self.fail: BaseException | None = None

    def __call__(self, setpoint: Setpoint) -> None:
        if self.fail is not None:
            raise self.fail
        self.sent.append(setpoint)


@pytest.fixture
def arm() -> Arm:
    return Arm()


@pytest.fixture
def servo(arm: Arm, clock: SimClock) -> Servo:
    """Without its thread: `pass_time` makes the ticks."""
    return Servo("arm", LIMITS, Q0, arm, clock=clock)


def pass_time(servo: Servo, clock: SimClock, seconds: float) -> None:
    for _ in range(round(seconds / PERIOD_S)):
        clock.sleep_until(clock.now() + PERIOD_S)
        servo.tick()


def wait_until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_it_sends_the_measured_pose_until_it_is_told_something(servo: Servo, arm: Arm, clock: SimClock):
    pass_time(servo, clock, 0.5)
    assert len(arm.sent) == 100
    for setpoint in arm.sent:
        np.testing.assert_array_equal(setpoint.q, Q0)
        np.testing.assert_array_equal(setpoint.dq, 0)


def test_a_jump_becomes_a_path_with_its_velocity(servo: Servo, arm: Arm, clock: SimClock):
    for _ in range(20):  # a loop at 10 Hz
        servo.command(Q0 + 0.6)
        pass_time(servo, clock, 0.1)
    q, dq = np.array([s.q for s in arm.sent]), np.array([s.dq for s in arm.sent])
    np.testing.assert_allclose(q[-1], Q0 + 0.6, atol=1e-6)
    assert (np.abs(np.diff(q, axis=0)) <= LIMITS.dq_max * PERIOD_S * (1 + 1e-9)).all()
    np.testing.assert_allclose(np.diff(q, axis=0) / PERIOD_S, (dq[1:] + dq[:-1]) / 2, atol=0.01)


def test_a_command_returns_the_target_as_clipped(servo: Servo):
    np.testing.assert_array_equal(servo.command(np.full(7, 9.0)), LIMITS.q_max)


@pytest.mark.parametrize("bad", [np.full(7, np.nan), np.append(Q0[:6], np.inf), Q0[:6]], ids=["nan", "inf", "shape"])
def test_nonsense_is_refused_and_the_arm_holds(servo: Servo, clock: SimClock, bad: np.ndarray):
    servo.command(Q0 + 0.6)
    pass_time(servo, clock, 0.1)
    with pytest.raises(SafetyStop, match="finite joint target of shape"):
        servo.command(bad)
    pass_time(servo, clock, 1.0)
    assert servo.at_rest
    assert (servo.read().q < Q0 + 0.5).all()


def test_without_fresh_targets_it_brakes_inside_the_limits_and_holds(servo: Servo, arm: Arm, clock: SimClock):
    servo.command(Q0 + 0.6)
    pass_time(servo, clock, 0.19)
    assert servo.stats.timeouts == 0
    pass_time(servo, clock, 1.5)
    assert servo.stats.timeouts == 1
    assert servo.at_rest
    stopped = servo.read().q
    assert (stopped < Q0 + 0.5).all()  # on the way, not at the target
    pass_time(servo, clock, 1.0)
    np.testing.assert_array_equal(servo.read().q, stopped)
    dq = np.array([s.dq for s in arm.sent])
    assert (np.abs(np.diff(dq, axis=0)) <= LIMITS.ddq_max * PERIOD_S * (1 + 1e-9)).all()
    assert (dq > -1e-9).all()


def test_a_fresh_target_after_the_timeout_moves_it_again(servo: Servo, clock: SimClock):
    servo.command(Q0 + 0.6)
    pass_time(servo, clock, 2.0)
    for _ in range(20):
        servo.command(Q0 + 0.6)
        pass_time(servo, clock, 0.1)
    np.testing.assert_allclose(servo.read().q, Q0 + 0.6, atol=1e-6)


def test_to_stand_at_the_target_is_no_timeout(servo: Servo, clock: SimClock):
    servo.command(Q0)
    pass_time(servo, clock, 1.0)
    assert servo.stats.timeouts == 0


def test_hold_is_idempotent_and_the_next_command_moves(servo: Servo, clock: SimClock):
    servo.command(Q0 + 0.6)
    pass_time(servo, clock, 0.15)
    servo.hold()
    pass_time(servo, clock, 0.05)
    once = servo.read()
    servo.hold()
    pass_time(servo, clock, 1.0)
    assert servo.at_rest and servo.stats.timeouts == 0
    assert (servo.read().q >= once.q).all()
    goal = servo.read().q + 0.01
    servo.command(goal)
    pass_time(servo, clock, 0.2)
    np.testing.assert_allclose(servo.read().q, goal, atol=1e-6)


def test_a_late_tick_makes_the_path_wait_not_jump(servo: Servo, arm: Arm, clock: SimClock):
    servo.command(Q0 + 0.6)
    pass_time(servo, clock, 0.19)
    before = arm.sent[-1]
    clock.sleep_until(clock.now() + 3.0)
    servo.tick()
    assert (np.abs(arm.sent[-1].q - before.q) <= LIMITS.dq_max * MAX_STEP_S).all()
    pass_time(servo, clock, 1.0)
    assert servo.at_rest and servo.stats.timeouts == 1


def test_the_thread_keeps_its_rate_and_the_last_setpoint_is_the_one_sent(arm: Arm):
    with Servo("arm", LIMITS, Q0, arm) as servo:
        start = time.monotonic()
        wait_until(lambda: len(arm.sent) >= 100)
        took = time.monotonic() - start
        stats = servo.stats
    assert took > 0.4  # 100 setpoints at 200 Hz; a busy machine may skip slots, but never hurries
    assert stats.ticks + stats.overruns >= 100
    count = len(arm.sent)
    time.sleep(0.05)
    assert len(arm.sent) == count


def test_slots_that_pass_during_a_send_are_counted():
    def slow(_: Setpoint) -> None:
        time.sleep(0.012)

    with Servo("arm", LIMITS, Q0, slow) as servo:
        wait_until(lambda: servo.stats.ticks >= 10)
    assert servo.stats.overruns >= 18  # two of three


def test_any_thread_may_command_and_hold(arm: Arm):
    clock = MonotonicClock()
    with Servo("arm", LIMITS, Q0, arm, clock=clock) as servo:

        def use(seed: int) -> None:
            rng = np.random.default_rng(seed)
            for _ in range(50):
                servo.command(rng.uniform(LIMITS.q_min, LIMITS.q_max))
                servo.hold()

        threads = [threading.Thread(target=use, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        servo.hold()
        wait_until(lambda: servo.at_rest)
    q = np.array([s.q for s in arm.sent])
    assert (np.abs(np.diff(q, axis=0)) <= LIMITS.dq_max * MAX_STEP_S).all()


@pytest.mark.parametrize(
    ("failure", "raised"),
    [(partial(StaleReading, "arm", "old"), StaleReading), (OSError, DeviceFault), (ZeroDivisionError, DeviceFault)],
)
def test_a_failed_send_is_kept_stops_the_servo_and_is_raised_every_time(
    arm: Arm, failure: Callable[[], BaseException], raised: type[BaseException]
):
    with Servo("arm", LIMITS, Q0, arm) as servo:
        servo.command(Q0 + 0.1)
        arm.fail = failure()
        wait_until(lambda: servo.failed)
        arm.fail = None
        count = len(arm.sent)
        for _ in range(2):
            with pytest.raises(raised):
                servo.read()
            with pytest.raises(raised):
                servo.command(Q0)
        servo.hold()
        time.sleep(0.05)
        assert len(arm.sent) == count


def test_a_closed_servo_takes_no_commands(arm: Arm):
    with Servo("arm", LIMITS, Q0, arm) as servo:
        pass
    with pytest.raises(DeviceFault, match="was closed"):
        servo.command(Q0)


def test_rates_and_timeouts_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="100 to 500 Hz"):
        ServoCfg(hz=50)
    with pytest.raises(ConfigError, match="timeout_s"):
        ServoCfg(timeout_s=0)
