"""Time that passes when it is told to, and the rig of all tests in this folder, with small images."""

import pytest
from armflow.robot.clock import SimClock
from armflow.robot.rig import Rig, load_rig


@pytest.fixture
def clock() -> SimClock:
    return SimClock()


@pytest.fixture(scope="session")
def rig() -> Rig:
    return load_rig().with_image_size(64, 48)
