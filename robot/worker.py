"""A thread that repeats one piece of work and keeps what it raises, so that a failure is never silent."""

import threading
from collections.abc import Callable

from .errors import DeviceError, DeviceFault


class Worker:
    """Repeats `work` from `start` to `close`. What `work` raises ends it, and every later `check` raises it again."""

    def __init__(
        self, device: str, name: str, work: Callable[[], None], *, patience_s: float = 2.0, advice: str = ""
    ) -> None:
        """`name` says what of `device` this is, for messages; `patience_s`: longer than one piece of work should take;
        `advice`: what to do once it has stopped."""
        self._device, self._name, self._work, self._patience_s = device, name, work, patience_s
        self._advice = f"; {advice}" if advice else ""
        self._closing = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"{device} {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Finish the present piece of work and end. Idempotent. Raises DeviceFault if it does not come to an end."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(self._patience_s)
        if self._thread.is_alive():
            raise DeviceFault(
                self._device, f"its {self._name} has been stuck for {self._patience_s} s; restart armflow"
            )

    def check(self) -> None:
        """Raise what `work` raised: an error of the device as it is, anything else as the cause of a DeviceFault."""
        if isinstance(self._error, DeviceError):
            raise self._error
        if self._error is not None:
            raise DeviceFault(self._device, f"its {self._name} stopped: {self._error!r}{self._advice}") from self._error
        if self._closing.is_set():
            raise DeviceFault(self._device, f"its {self._name} was closed; open the device again")

    @property
    def failed(self) -> bool:
        return self._error is not None

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._work()
        except BaseException as error:  # noqa: BLE001 - kept for `check`: a thread has nobody to raise it to
            self._error = error
