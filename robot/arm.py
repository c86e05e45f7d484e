"""The seam every arm driver fits, hardware or twin."""

from typing import Protocol

from .types import ArmCommand, ArmSpec, ArmState


class ArmDriver(Protocol):
    spec: ArmSpec

    def read(self) -> ArmState:
        """Newest measurement. Raises StaleReading or DeviceFault."""
        ...

    def command(self, cmd: ArmCommand) -> ArmCommand:
        """Send a target; returns what was really sent."""
        ...

    def hold(self) -> None:
        """Stop here. Idempotent, may be called from any thread."""
        ...
