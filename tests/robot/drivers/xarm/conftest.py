"""The real SDK talking to control boxes made of software, see `standin.py`."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from .standin import CONTROL_PORT, StandIn, control_box


@pytest.fixture(scope="session", autouse=True)
def unprivileged_port() -> Iterator[None]:
    """Only root may listen on the protocol's port 502."""
    config = pytest.importorskip("xarm.core.config.x_config", reason='needs the SDK: pip install "armflow[xarm]"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config.XCONF.SocketConf, "TCP_CONTROL_PORT", CONTROL_PORT)
        yield


@pytest.fixture
def box() -> Iterator[StandIn]:
    with control_box() as box:
        yield box


@pytest.fixture
def boxes() -> Callable[[str], AbstractContextManager[StandIn]]:
    """boxes(firmware): a control box with that firmware."""
    return control_box
