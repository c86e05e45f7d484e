"""The thread that listens to a device while it is open, and what to do when it no longer can."""

from collections.abc import Callable

from ..robot.worker import Worker

RECONNECT = "connect it again, then start the session again"


def reader(device: str, listen: Callable[[], None]) -> Worker:
    """Repeats `listen` once it is started; see `Worker`."""
    return Worker(device, "reader", listen, advice=RECONNECT)
