"""Hearing a device in a thread of its own, so that nothing waits in a queue while the control loop is busy."""

import threading
from collections.abc import Callable

from ..robot.errors import DeviceError, DeviceFault


class Background:
    """Runs `step` over and over until `stop`. An error of the device ends it and is raised by `check`.

    A step must return within a tenth of a second, so that `stop` does not have to wait.
    """

    def __init__(self, device: str, step: Callable[[], None]) -> None:
        self._device, self._step = device, step
        self._stopping = threading.Event()
        self._error: OSError | ValueError | DeviceError | None = None
        self._thread = threading.Thread(target=self._run, name=device, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def check(self) -> None:
        """Raises DeviceFault if the device is no longer heard."""
        if self._thread.is_alive():
            return
        said = self._error.message if isinstance(self._error, DeviceError) else self._error
        raise DeviceFault(
            self._device, f"is no longer heard ({said}); connect it again, then start the session again"
        ) from self._error

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._step()
        except (OSError, ValueError, DeviceError) as error:
            self._error = error
