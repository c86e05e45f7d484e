"""A deadline for calls that have none."""

import threading

import pytest
from armflow.robot.drivers.within import within
from armflow.robot.errors import DeviceTimeout


def test_what_the_call_returns_or_raises_comes_through():
    assert within("arm", lambda: 3, 10.0, "silent") == 3
    with pytest.raises(ZeroDivisionError):
        within("arm", lambda: 1 / 0, 10.0, "silent")


def test_a_call_that_does_not_return_is_given_up():
    over = threading.Event()
    try:
        with pytest.raises(DeviceTimeout, match="arm: it is silent"):
            within("arm", lambda: over.wait(30.0), 0.05, "it is silent")
    finally:
        over.set()
