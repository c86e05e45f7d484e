"""The filter between whoever decides and the arm: always on, the same object for twin and hardware.

It damages less when something goes wrong; it is not a safety function in the sense of any standard.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .errors import ConfigError, SafetyStop
from .types import ArmCommand, ArmSpec, ArmState, Floats, SafetyFlag

MAX_MARGIN_RAD = 0.5  # more leaves little of a joint's range, and nothing of the narrowest


@dataclass(frozen=True, eq=False)
class Filtered:
    """A command that may be sent, and what had to change to make it so."""

    command: ArmCommand
    flags: SafetyFlag


class SafetyFilter(Protocol):
    def reset(self, state: ArmState) -> None: ...

    def __call__(self, cmd: ArmCommand, state: ArmState, dt: float) -> Filtered: ...


@dataclass(frozen=True)
class SafetyCfg:
    """Limits relative to the vendor's."""

    joint_margin_rad: float = 0.05
    """Distance kept from each end of the joint range."""
    speed_scale: float = 0.6
    """Fraction of the vendor's joint speed limit that a command may ask for."""
    start_tolerance_rad: float = 0.5
    """Refuse a first command further than this from the measured pose, on any joint."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.joint_margin_rad < MAX_MARGIN_RAD:
            raise ConfigError(f"joint_margin_rad must be in [0, {MAX_MARGIN_RAD}), got {self.joint_margin_rad}")
        if not 0.0 < self.speed_scale <= 1.0:
            raise ConfigError(f"speed_scale must be in (0, 1], got {self.speed_scale}")
        if not self.start_tolerance_rad > 0.0:  # may be infinite: no start check
            raise ConfigError(f"start_tolerance_rad must be positive, got {self.start_tolerance_rad}")


class JointSafety:
    """Finite and shape -> start pose -> joint range -> joint speed, in this order.

    Speed is limited between consecutive *commands*, so tracking lag cannot wind it up.
    """

    def __init__(self, spec: ArmSpec, cfg: SafetyCfg | None = None) -> None:
        self._spec = spec
        self._cfg = cfg or SafetyCfg()
        self._last_q: Floats | None = None
        self._start_q: Floats | None = None

    def reset(self, state: ArmState) -> None:
        """Forget the previous command; the next one is compared with the pose measured in `state`.

        Raises SafetyStop if that pose is not finite: every comparison with it would pass.
        """
        if not np.isfinite(state.q).all():
            bad = [name for name, x in zip(self._spec.joint_names, state.q, strict=True) if not np.isfinite(x)]
            raise SafetyStop(f"{self._spec.name} measures no finite position of {', '.join(bad)}; check the arm")
        self._last_q = None
        self._start_q = state.q.copy()

    def __call__(self, cmd: ArmCommand, state: ArmState, dt: float) -> Filtered:
        """Limit `cmd`; `dt` is the time until the next command, s. Raises SafetyStop on nonsense."""
        if not 0.0 < dt < np.inf:
            raise SafetyStop(f"the time until the next command must be positive, got {dt} s")
        self._check_sane(cmd)
        flags = SafetyFlag.NONE
        if self._last_q is None:
            self._last_q = self._checked_start(cmd)

        margin = self._cfg.joint_margin_rad
        q = np.clip(cmd.q, self._spec.q_min + margin, self._spec.q_max - margin)
        if not np.array_equal(q, cmd.q):
            flags |= SafetyFlag.JOINT_RANGE

        step = self._cfg.speed_scale * self._spec.dq_max * dt
        limited = np.clip(q, self._last_q - step, self._last_q + step)
        if not np.array_equal(limited, q):
            flags |= SafetyFlag.JOINT_SPEED

        gripper = min(max(cmd.gripper, 0.0), 1.0)
        if gripper != cmd.gripper:
            flags |= SafetyFlag.GRIPPER_RANGE

        self._last_q = limited
        return Filtered(ArmCommand(limited, gripper), flags)

    def _check_sane(self, cmd: ArmCommand) -> None:
        if cmd.q.shape != (self._spec.dof,):
            raise SafetyStop(f"command has shape {cmd.q.shape}, {self._spec.name} takes ({self._spec.dof},)")
        with np.errstate(over="ignore"):
            vector = cmd.vector  # float32, as it is recorded: what overflows there is nonsense, too
        if not np.isfinite(vector).all():
            bad = [name for name, x in zip(self._spec.action_names, vector, strict=True) if not np.isfinite(x)]
            raise SafetyStop(f"command is not finite in {', '.join(bad)}; look at the policy's input and weights")

    def _checked_start(self, cmd: ArmCommand) -> Floats:
        """The pose to start from, if the first command is near it."""
        if self._start_q is None:
            raise SafetyStop("the filter does not know where the arm is; call reset with a measured state first")
        jump = np.abs(cmd.q - self._start_q)
        worst = int(jump.argmax())
        if jump[worst] > self._cfg.start_tolerance_rad:
            raise SafetyStop(
                f"first command is {jump[worst]:.2f} rad from the measured pose on {self._spec.joint_names[worst]}, "
                f"at most {self._cfg.start_tolerance_rad} rad is allowed; drive the arm to the start pose first"
            )
        return self._start_q
