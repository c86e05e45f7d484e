"""Keyboard teleoperation through pynput: small tool moves while the dead-man key is held. The keys: `keys.py`."""

from types import TracebackType
from typing import Any, Self

from ..robot.errors import DeviceFault, DeviceNotFound
from ..robot.types import ArmState
from .device import TeleopInput
from .keys import HeldKeys


class KeyboardDevice(HeldKeys):
    """HandDevice. Hears every press and release on the X display, whichever window has the focus."""

    name = "keyboard"
    usage = "hold shift to move; enter, x or esc to end"

    def __init__(self, control_hz: float) -> None:
        super().__init__(control_hz)
        self._listener: Any = None

    def __enter__(self) -> Self:
        try:
            from pynput import keyboard
        except ImportError as error:  # pynput raises this, too, when there is no display
            raise DeviceNotFound(
                self.name, f"pynput cannot listen here ({error}). It needs an X display: run on the robot computer's "
                "desktop or set DISPLAY; `--device terminal` and `--device browser` need none"
            ) from error  # fmt: skip
        self._listener = keyboard.Listener(
            on_press=lambda key: self.press(_name(key)), on_release=lambda key: self.release(_name(key))
        )
        self._listener.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.stop()

    def read(self, state: ArmState) -> TeleopInput:
        """What the held keys ask for. Raises DeviceFault if keys are no longer heard: releases would be missed, too."""
        if self._listener is not None and not self._listener.is_alive():
            raise DeviceFault(self.name, "no longer hears keys; has the X display gone? Start the session again")
        return self.wish()


def _name(key: Any) -> str:
    """'a' for letters whatever the shift state, 'space', 'shift', 'esc' for the others."""
    char = getattr(key, "char", None)
    if char is not None:
        return str(char).lower()
    name = str(getattr(key, "name", key))
    return "shift" if name.startswith("shift") else name
