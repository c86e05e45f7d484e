"""Readings of analogue axes into what a person means by them."""

import numpy as np

from ..robot.types import Floats


def shaped(readings: Floats, *, dead_zone: float, power: float) -> Floats:
    """Readings, 1 at full deflection, to -1 .. 1: nothing within the dead-zone, and from its edge on no jump but a rise
    by `power`; 1 is straight, more is finer in the middle."""
    beyond = (np.minimum(np.abs(readings), 1.0) - dead_zone) / (1.0 - dead_zone)
    return np.sign(readings) * np.maximum(beyond, 0.0) ** power
