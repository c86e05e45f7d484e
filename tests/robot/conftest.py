"""The rig of all tests in this folder, with small images."""

import pytest
from armflow.robot.clock import SimClock
from armflow.robot.rig import Rig, load_rig


@pytest.fixture(scope="session")
def rig() -> Rig:
    return load_rig().with_image_size(128, 96)


@pytest.fixture
def clock() -> SimClock:
    return SimClock()
