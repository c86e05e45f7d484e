"""A leader arm: a small copy of the arm that the person moves by hand; the arm's joints follow its joints.

Any leader of LeRobot that tells `MOTOR.pos` for every joint of the arm, its calibration made with `lerobot-calibrate`, and
described by a TOML file of `LeaderCfg`. Joint i of the arm goes to `signs[i] * reading(joints[i]) + offsets_rad[i]`.

The dead-man is another device, the clutch: its dead-man, and its way to end an episode. While it is held the arm stays (and a
policy waits) until every joint of the leader is within `MATCH_RAD` of the arm's; from then on the arm follows, and what is
left of the difference fades out in `RAMP_S`.
"""

import math
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from ..robot.errors import ConfigError, DeviceFault
from ..robot.types import ArmState, Floats
from .device import HandDevice, JointTarget, TeleopInput
from .lerobot_leader import close_leader, open_leader
from .reader import RECONNECT, reader

MATCH_RAD = 0.15  # on every joint, for the arm to follow
RAMP_S = 1.5  # in which the difference at the beginning fades out: at most 0.1 rad/s beside the person's own motion
STALE_S = 0.1  # without a reading the arm stays; a leader is read 50 times a second and more
LOST_S = 2.0  # without a reading it is a fault
GRIPPER_MATCH = 0.1  # of the opening: the leader's gripper has to come so near before the arm's follows it


class LeaderArm(Protocol):
    """The part of a LeRobot teleoperator that is used here."""

    def get_action(self) -> dict[str, float]:
        """Blocks on the bus. Raises ConnectionError if a motor does not answer."""
        ...

    def disconnect(self) -> None: ...


@dataclass(frozen=True)
class LeaderCfg:
    """A leader and how its motors map to the arm's joints."""

    type: str
    """LeRobot's name of it, as in `--teleop.type`; 7 joints and a gripper: openarm_mini, openarm_leader, or a plugin."""
    port: str
    """Serial port or CAN interface."""
    id: str
    """Of its calibration, as in `--teleop.id`."""
    joints: tuple[str, ...]
    """Its motor for each joint of the arm, in the arm's order."""
    signs: tuple[float, ...]
    """1, or -1 where it turns the other way."""
    offsets_rad: tuple[float, ...]
    """The arm's joint positions where the leader reads zero, rad."""
    clutch: str = "keyboard"
    """Device whose dead-man and events count; a pedal that types shift is a keyboard."""
    gripper: str = "gripper"
    """Its motor for the gripper."""
    gripper_closed: float = 0.0
    """What that motor reads closed, in LeRobot's unit."""
    gripper_open: float = 100.0
    """What it reads open."""
    calibration_dir: Path | None = None
    """Where its calibration lies; none is LeRobot's own folder."""

    def __post_init__(self) -> None:
        n = len(self.joints)
        if not n == len(self.signs) == len(self.offsets_rad) == len(set(self.joints)):
            raise ConfigError(
                f"leader: joints, signs and offsets_rad need one entry for each joint of the arm, each motor once; got {n}, "
                f"{len(self.signs)} and {len(self.offsets_rad)}, {len(set(self.joints))} motors"
            )
        if set(self.signs) - {1.0, -1.0} or not all(map(math.isfinite, self.offsets_rad)):
            raise ConfigError(
                f"leader: signs must be 1 or -1 and offsets_rad finite; got {self.signs}, {self.offsets_rad}"
            )
        if not 0.0 < abs(self.gripper_open - self.gripper_closed) < math.inf:
            raise ConfigError("leader: gripper_open and gripper_closed must be two readings of its gripper")


@dataclass(frozen=True, eq=False)
class Pose:
    """One reading of the leader, as the arm would have it."""

    at_s: float
    q: Floats  # (dof,) rad
    gripper: float  # 0 closed .. 1 open


class LeaderDevice:
    """HandDevice. A thread reads the leader as fast as its bus allows; `read` tells what the newest reading means."""

    name = "leader"

    def __init__(
        self,
        cfg: LeaderCfg,
        clutch: HandDevice,
        joint_names: tuple[str, ...],
        *,
        say: Callable[[str], None],
        open_arm: Callable[[LeaderCfg], LeaderArm] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`joint_names`: the arm's. `say` is told why the arm does not follow. `open_arm`: None is LeRobot's. `now`:
        monotonic, s. Raises ConfigError if the leader has too few joints."""
        if len(cfg.joints) != len(joint_names):
            raise ConfigError(
                f"leader: {cfg.type} is given with {len(cfg.joints)} joints, the arm has {len(joint_names)}; a leader needs a "
                "motor for each joint of the arm"
            )
        self._cfg, self._clutch, self._joint_names, self._say, self._now = cfg, clutch, joint_names, say, now
        self._open = open_arm or (lambda cfg: open_leader(cfg.type, cfg.port, cfg.id, cfg.calibration_dir, _used(cfg)))
        self._lock = threading.Lock()
        self._pose: Pose | None = None  # the newest
        self._since_s: float | None = None  # the arm has been following
        self._gap = np.zeros(len(joint_names))  # rad, of the arm to the leader when it began to
        self._gripper, self._gripper_follows = 1.0, False
        self._said = ""

    @property
    def usage(self) -> str:
        return f"bring the leader to the arm's pose; {self._clutch.usage}"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._clutch)
            self._arm = self._open(self._cfg)
            stack.callback(close_leader, self._arm)
            self._opened_s = self._now()
            self._reader = reader(self.name, self._listen)
            self._reader.start()
            stack.callback(self._reader.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def start_episode(self, gripper: float) -> None:
        self._clutch.start_episode(gripper)
        self._gripper, self._gripper_follows = gripper, False

    def read(self, state: ArmState) -> TeleopInput:
        """What the leader's pose asks for. Raises DeviceFault if leader or clutch are unplugged."""
        self._reader.check()
        held = self._clutch.read(state)
        with self._lock:
            pose = self._pose
        now = self._now()
        if pose is None or not held.engaged or not self._may_follow(pose, state, now):
            self._since_s, self._gripper_follows = None, False
            return TeleopInput(held.engaged, None, self._gripper, held.event)
        if self._since_s is None:
            self._since_s, self._gap = now, state.q - pose.q
        self._gripper_follows |= abs(pose.gripper - self._gripper) < GRIPPER_MATCH
        if self._gripper_follows:
            self._gripper = pose.gripper
        left = max(0.0, 1.0 - (now - self._since_s) / RAMP_S)
        return TeleopInput(True, JointTarget(pose.q + left * self._gap), self._gripper, held.event)

    def _may_follow(self, pose: Pose, state: ArmState, now: float) -> bool:
        """Whether the arm may follow; says why not, once per reason or set of joints."""
        if now - pose.at_s > STALE_S:
            self._tell("the leader is not heard", about="silence")
            return False
        gaps = zip(self._joint_names, self._cfg.joints, state.q - pose.q, strict=True)
        far = {f"{joint} ({motor})": gap for joint, motor, gap in gaps if not abs(gap) <= MATCH_RAD}
        if self._since_s is not None or not far:
            self._said = ""
            return True
        by_joint = ", ".join(f"{name} by {gap:+.2f} rad" for name, gap in far.items())
        self._tell(f"move the leader to the arm's pose, within {MATCH_RAD} rad: {by_joint}", about=", ".join(far))
        return False

    def _tell(self, message: str, about: str) -> None:
        if about != self._said:
            self._say(message)
        self._said = about

    def _listen(self) -> None:
        try:
            readings = self._arm.get_action()
        except ConnectionError as error:  # one answer may get lost; the bus is read again at once
            heard_s = self._opened_s if self._pose is None else self._pose.at_s
            if self._now() - heard_s > LOST_S:
                raise DeviceFault(self.name, f"its motors do not answer ({error}); {RECONNECT}") from error
            return
        pose = _to_pose(readings, self._cfg, self._now())
        with self._lock:
            self._pose = pose


def _to_pose(readings: dict[str, float], cfg: LeaderCfg, now: float) -> Pose:
    degrees = np.array([readings[f"{motor}.pos"] for motor in cfg.joints], dtype=np.float64)
    q = np.array(cfg.signs) * np.deg2rad(degrees) + np.array(cfg.offsets_rad)
    opening = (readings[f"{cfg.gripper}.pos"] - cfg.gripper_closed) / (cfg.gripper_open - cfg.gripper_closed)
    return Pose(now, q, min(max(opening, 0.0), 1.0))


def _used(cfg: LeaderCfg) -> tuple[str, ...]:
    return (*cfg.joints, cfg.gripper)
