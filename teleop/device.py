"""The seam every teleoperation device fits: what a person (or a script) wants right now."""

from dataclasses import dataclass
from enum import Enum, auto
from types import TracebackType
from typing import Protocol, Self

from ..robot.types import ArmState, Floats


class TeleopEvent(Enum):
    """Things an operator says besides where to move."""

    SUCCESS = auto()  # end the episode, it worked
    FAILURE = auto()  # end the episode, it did not
    DISCARD = auto()  # end the episode and throw it away


@dataclass(frozen=True, eq=False)
class ToolDelta:
    """Move the tool by this much within one control period."""

    translation_m: Floats  # (3,) in the base frame
    rotation_rad: Floats  # (3,) rotation vector in the base frame


@dataclass(frozen=True, eq=False)
class ToolPose:
    """Bring the tool to this pose."""

    X_BE: Floats  # (4, 4)


@dataclass(frozen=True, eq=False)
class JointTarget:
    """Bring the joints to these positions."""

    q: Floats  # (dof,) rad


@dataclass(frozen=True, eq=False)
class TeleopInput:
    """One reading of a device."""

    engaged: bool  # the dead-man is held; without it the arm stays
    target: ToolDelta | ToolPose | JointTarget | None  # None: the arm stays
    gripper: float  # wanted opening, 0 closed .. 1 open
    event: TeleopEvent | None = None


class TeleopDevice(Protocol):
    def read(self, state: ArmState) -> TeleopInput: ...


class HandDevice(TeleopDevice, Protocol):
    """A device that a person holds: open during a session, and told when an episode starts."""

    @property
    def name(self) -> str:
        """As in `--device`; episodes are labelled with it."""
        ...

    @property
    def usage(self) -> str:
        """How to move and how to end an episode, in one line."""
        ...

    def start_episode(self, gripper: float) -> None:
        """Forget events of the last episode. Opening `gripper` (0 .. 1) is wished for until the person changes it."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
