"""The seam every RGB-D camera fits, hardware or twin."""

from typing import Protocol

from .types import CameraSpec, RgbdFrame


class Camera(Protocol):
    spec: CameraSpec

    def latest(self, *, max_age_s: float) -> RgbdFrame:
        """Newest colour and aligned depth of one instant. Raises StaleReading beyond `max_age_s`."""
        ...
