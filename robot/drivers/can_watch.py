"""Which motors really answered: a python-can bus that remembers what was received through it.

LeRobot's motors buses on CAN answer a dropped packet with the last known state and a line in the log, and with 0.0 before
the first reply. Only the frames themselves tell the difference, so we look at them on their way through.
"""

from typing import Any

FEEDBACK_BYTES = 8  # LeRobot decodes no shorter frame
DRAIN_AT_MOST = 1000  # frames; a bus that brings them faster than we read is not worth waiting for

# High nibble of a Damiao motor's first byte, as its manual and OpenArm's `openarm_can` have it. LeRobot ignores it.
DAMIAO_DISABLED, DAMIAO_ENABLED = 0x0, 0x1
DAMIAO_STATUS = {
    DAMIAO_DISABLED: "disabled",
    DAMIAO_ENABLED: "enabled",
    0x8: "overvoltage",
    0x9: "undervoltage",
    0xA: "overcurrent",
    0xB: "driver too hot",
    0xC: "winding too hot",
    0xD: "communication lost",
    0xE: "overload",
}
DAMIAO_CLEAR_ERROR = b"\xff\xff\xff\xff\xff\xff\xff\xfb"


class CanWatch:
    """Stands in for a python-can bus: everything goes through to it, and `received` grows by what `recv` returns."""

    def __init__(self, bus: Any) -> None:
        """`bus`: can.BusABC."""
        self._bus = bus
        self.received: dict[int, bytes] = {}  # arbitration id -> data of its newest frame since `begin`

    def begin(self) -> None:
        """Forget everything, and what waits to be received, too: a late reply must not pass for the next one."""
        for _ in range(DRAIN_AT_MOST):
            if self._bus.recv(timeout=0) is None:
                break
        self.received = {}

    def recv(self, timeout: float | None = None) -> Any:
        message = self._bus.recv(timeout=timeout)
        if message is not None and not message.is_error_frame and len(message.data) >= FEEDBACK_BYTES:
            self.received[message.arbitration_id] = bytes(message.data)
        return message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)
