"""The limits of the safety filter, the `[safety]` section of a rig file. The defaults are for an arm's first day."""

import math
from dataclasses import dataclass

from .errors import ConfigError

MAX_MARGIN_RAD = 0.5  # more leaves little of a joint's range, and nothing of the narrowest
Point = tuple[float, ...]


@dataclass(frozen=True)
class SafetyCfg:
    """Scales are fractions of the vendor's limits, positions are in the arm's base frame. `inf` switches a check off."""

    joint_margin_rad: float = 0.05
    """Distance kept from each end of the joint range."""
    speed_scale: float = 0.3
    """Fraction of the joints' speed limits."""
    acceleration_scale: float = 0.5
    """Fraction of the joints' acceleration limits. Above 1 only in a twin that follows jumps."""
    jerk_scale: float = 0.5
    """Fraction of the joints' jerk limits, where the vendor names any."""
    start_tolerance_rad: float = 0.1
    """Refuse a first command further than this from the measured pose, on any joint."""
    engage_s: float = 2.0
    """Speeds rise from a tenth of their limits to all of them in this time after a start; 0 for no ramp."""
    tcp_min: Point = (0.15, -0.5, 0.0)
    """Lowest x, y and z of the tool centre point, m."""
    tcp_max: Point = (0.8, 0.5, 0.8)
    """Highest x, y and z of the tool centre point, m."""
    tcp_speed_m_s: float = 0.25
    """Speed of the tool centre point."""
    clearance_m: float = 0.02
    """Kept between parts of the arm that are not neighbours, and between arm and cameras; -inf for no such check."""
    table_z_m: float = 0.0
    """Height of the table."""
    table_clearance_m: float = 0.0
    """Kept above the table by arm and tool; negative lets a compliant arm press on it, -inf knows no table."""
    max_command_age_s: float = 0.2
    """A command decided on an observation older than this is not followed: the arm brakes."""
    blocked_stop_s: float = 1.0
    """Stop when no command could be followed for this long."""
    tracking_rad: float = 0.15
    """Stop when any joint is measured further than this from its last command ..."""
    tracking_s: float = 0.1
    """... for longer than this."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.joint_margin_rad < MAX_MARGIN_RAD:
            raise ConfigError(f"joint_margin_rad must be in [0, {MAX_MARGIN_RAD}), got {self.joint_margin_rad}")
        for key in ("speed_scale", "jerk_scale"):
            if not 0.0 < getattr(self, key) <= 1.0:
                raise ConfigError(f"{key} must be in (0, 1], got {getattr(self, key)}")
        if not 0.0 < self.acceleration_scale < math.inf:
            raise ConfigError(f"acceleration_scale must be positive and finite, got {self.acceleration_scale}")
        for key in (
            "start_tolerance_rad", "tcp_speed_m_s", "max_command_age_s", "blocked_stop_s", "tracking_rad",
        ):  # fmt: skip
            if not getattr(self, key) > 0.0:  # may be infinite: no such check
                raise ConfigError(f"{key} must be positive, got {getattr(self, key)}")
        for key in ("engage_s", "tracking_s"):
            if not 0.0 <= getattr(self, key) < math.inf:
                raise ConfigError(f"{key} must be zero or more, and finite, got {getattr(self, key)}")
        for key in ("clearance_m", "table_clearance_m"):
            if not getattr(self, key) < math.inf:  # may be -inf: no such check
                raise ConfigError(f"{key} must be finite or -inf, got {getattr(self, key)}")
        if not math.isfinite(self.table_z_m):
            raise ConfigError(f"table_z_m must be finite, got {self.table_z_m}")
        box = (self.tcp_min, self.tcp_max)
        if {len(corner) for corner in box} != {3} or not all(a < b for a, b in zip(*box, strict=True)):
            raise ConfigError(f"tcp_min must be below tcp_max in x, y and z, got {self.tcp_min} and {self.tcp_max}")
