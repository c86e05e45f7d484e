"""Clocks never go back and never wake early."""

import time

import pytest
from armflow.robot.clock import Clock, MonotonicClock, SimClock


@pytest.mark.parametrize("clock", [MonotonicClock(), SimClock()], ids=["wall", "simulated"])
def test_sleep_ends_at_the_time_or_later_and_past_times_cost_nothing(clock: Clock):
    wake = clock.now() + 0.02
    clock.sleep_until(wake)
    woke = clock.now()
    assert woke >= wake
    clock.sleep_until(wake - 10)
    assert clock.now() >= woke
    assert clock.now() - woke < 0.5


def test_the_simulated_clock_needs_no_time():
    clock, start = SimClock(), time.monotonic()
    clock.sleep_until(3600)
    assert clock.now() == 3600
    assert time.monotonic() - start < 1
