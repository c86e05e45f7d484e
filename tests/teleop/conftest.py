"""What all tests in this folder share: time that passes when it is told to, a rig with small images, wishes looked at."""

from collections.abc import Callable

import pytest
from armflow.robot.clock import SimClock
from armflow.robot.rig import Rig, load_rig
from armflow.teleop.device import TeleopInput, ToolDelta


@pytest.fixture
def clock() -> SimClock:
    return SimClock()


@pytest.fixture(scope="session")
def rig() -> Rig:
    return load_rig().with_image_size(64, 48)


@pytest.fixture(scope="session")
def delta() -> Callable[[TeleopInput], ToolDelta]:
    """delta(wish): how the tool is to move within this control period."""

    def _delta(wish: TeleopInput) -> ToolDelta:
        assert isinstance(wish.target, ToolDelta)
        return wish.target

    return _delta


@pytest.fixture(scope="session")
def at_rest(delta: Callable[[TeleopInput], ToolDelta]) -> Callable[[TeleopInput], bool]:
    """at_rest(wish): whether the tool is to stay."""
    return lambda wish: not delta(wish).translation_m.any() and not delta(wish).rotation_rad.any()
