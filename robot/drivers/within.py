"""A deadline for calls of SDKs that have none."""

import queue
import threading
from collections.abc import Callable

from ..errors import DeviceTimeout


def within[T](device: str, connect: Callable[[], T], timeout_s: float, message: str) -> T:
    """What `connect` returns, or DeviceTimeout with `message`: some SDKs wait for ever for a robot that is silent or taken."""
    answers: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()
    gave_up = threading.Event()

    def run() -> None:
        try:
            answer = (connect(), None)
        except Exception as error:  # noqa: BLE001 - raised below, in the thread that asked
            answer = (None, error)
        if not gave_up.is_set():  # else it lets go at once of what it got too late
            answers.put(answer)

    threading.Thread(target=run, name=f"{device} connect", daemon=True).start()
    try:
        result, error = answers.get(timeout=timeout_s)
    except queue.Empty:
        gave_up.set()
        raise DeviceTimeout(device, message) from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value] - it is there when no error is
