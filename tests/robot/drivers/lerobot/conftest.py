"""OpenArms to talk to: LeRobot's own follower on one end of a virtual CAN bus, motors made of software on the other."""

import json
import math
import queue
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from armflow.robot import openarm
from armflow.robot.clock import MonotonicClock
from armflow.robot.drivers.lerobot_arm import LeRobotArm
from armflow.robot.drivers.lerobot_config import LeRobotArmCfg
from armflow.robot.drivers.lerobot_config import openarm as openarm_cfg

POSITION_MAX = 12.5  # rad
PARAMETERS = 0x7FF  # the id that refresh requests are sent to
ENABLE, DISABLE, CLEAR_ERROR, REFRESH = 0xFC, 0xFD, 0xFB, 0xCC
LAG_S = 0.03  # how fast a motor follows its target


@dataclass
class Motor:
    """Written from Damiao's manual, not from LeRobot's encoder, so that the two check each other.

    Follows its target with a first-order lag while it is enabled; there is no gravity. Attributes may be changed."""

    id: int
    speed_max: float  # rad/s at full scale
    torque_max: float  # N m at full scale
    q: float = 0.0  # rad
    dq: float = 0.0  # rad/s
    torque: float = 0.0  # N m, as reported
    status: int = 0  # 0 disabled, 1 enabled, 8 and more an error
    target: float | None = None  # rad, of the newest MIT frame
    kp: float = 0.0
    mute: bool = False  # answers nothing, and follows nothing: its connector is out
    stuck: bool = False  # answers, but does not move
    targets: list[tuple[float, float]] = field(default_factory=list)  # (time, rad) of every MIT frame
    switched: int = 0  # how often it was told to switch on or off
    _then: float = 0.0

    def advance(self, now: float) -> None:
        dt, self._then = now - self._then, now
        moves = self.status == 1 and self.target is not None and self.kp > 0 and not self.stuck and not self.mute
        if moves and self.target is not None:
            self.dq = (self.target - self.q) / LAG_S * math.exp(-dt / LAG_S)
            self.q = self.target + (self.q - self.target) * math.exp(-dt / LAG_S)
        else:
            self.dq = 0.0

    def obey(self, data: bytes, now: float) -> None:
        if data[:7] == b"\xff" * 7 and data[7] in (ENABLE, DISABLE, CLEAR_ERROR):
            self.target, self.switched = None, self.switched + 1
            if data[7] == CLEAR_ERROR or self.status < 8:  # an error stays until it is cleared
                self.status = int(data[7] == ENABLE)
            return
        self.target = _from_bits(data[0] << 8 | data[1], POSITION_MAX, 16)
        self.kp = ((data[3] & 0xF) << 8 | data[4]) / 4095 * 500
        self.targets.append((now, self.target))

    def feedback(self) -> bytes:
        q = _to_bits(self.q, POSITION_MAX, 16)
        dq, torque = _to_bits(self.dq, self.speed_max, 12), _to_bits(self.torque, self.torque_max, 12)
        return bytes([self.status << 4 | self.id, q >> 8, q & 0xFF, dq >> 4, (dq & 0xF) << 4 | torque >> 8,
                      torque & 0xFF, 30, 31])  # fmt: skip


class Motors:
    """The motors of one OpenArm, `joint_1` to `joint_7` and the gripper; a context manager around their end of the bus.

    They answer within the call that sends to them: LeRobot waits 1 to 10 ms, which another thread would often miss.
    """

    def __init__(self, channel: str) -> None:
        kinds = [(45.0, 54.0)] * 2 + [(8.0, 28.0)] * 2 + [(30.0, 10.0)] * 4
        self.motors = [Motor(i + 1, *kind) for i, kind in enumerate(kinds)]
        can = pytest.importorskip("can", reason='needs python-can: pip install "armflow[openarm]"')
        from can.interfaces.virtual import VirtualBus

        self._message, self._bus = can.Message, VirtualBus(channel)
        inbox = _Inbox(self._answer)
        self._bus.channel[self._bus.channel.index(self._bus.queue)] = inbox
        self._bus.queue = inbox

    def __getitem__(self, index: int) -> Motor:
        """0 to 6 are the joints, 7 is the gripper."""
        return self.motors[index]

    @property
    def listeners(self) -> list[Any]:
        """Everybody who is on the bus, the motors themselves included."""
        return self._bus.channel

    def __enter__(self) -> "Motors":
        return self

    def __exit__(self, *_: object) -> None:
        self._bus.shutdown()

    def _answer(self, message: Any) -> None:
        data = bytes(message.data)
        if message.arbitration_id == PARAMETERS and data[2] == REFRESH:
            motor, order = self.motors[(data[0] | data[1] << 8) - 1], b""
        else:
            motor, order = self.motors[message.arbitration_id - 1], data
        now = time.monotonic()
        motor.advance(now)
        if motor.mute:
            return
        if order:
            motor.obey(order, now)
        reply = self._message(arbitration_id=0x10 + motor.id, data=motor.feedback(), is_extended_id=False, is_fd=True)
        self._bus.send(reply)


class _Inbox(queue.Queue[Any]):
    """What python-can puts in here is handled at once, by the thread that sends."""

    def __init__(self, handle: Callable[[Any], None]) -> None:
        super().__init__()
        self._handle = handle

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        self._handle(item)


def _to_bits(x: float, full_scale: float, bits: int) -> int:
    top = (1 << bits) - 1
    return min(max(round((x + full_scale) / (2 * full_scale) * top), 0), top)


def _from_bits(bits: int, full_scale: float, count: int) -> float:
    return bits / ((1 << count) - 1) * 2 * full_scale - full_scale


# Patient enough for a busy machine, which is no defect; tests of lost packets ask for less. Fast, to be done soon.
PATIENT = {"max_age_s": 2.0, "fault_age_s": 4.0}
FAST = {"speed_scale": 1.0, "acceleration_scale": 1.0, "jerk_max": 1000.0}


class ShiftedClock(MonotonicClock):
    """The wall's clock, which a test may put forward: what takes long then takes no time, on the slowest machine, too."""

    shift_s = 0.0

    def now(self) -> float:
        return super().now() + self.shift_s

    def sleep_until(self, t: float) -> None:
        super().sleep_until(t - self.shift_s)


@pytest.fixture
def shifted() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
def channel() -> str:
    """A name that no other test has."""
    return f"armflow-{uuid.uuid4()}"


@pytest.fixture
def motors(channel: str) -> Iterator[Motors]:
    """At the arm's zero, hanging."""
    with Motors(channel) as motors:
        yield motors


@pytest.fixture
def cfg(channel: str, tmp_path: Path) -> LeRobotArmCfg:
    """A calibrated right arm on the virtual bus."""
    motors = {f"joint_{i}": i for i in range(1, 8)} | {"gripper": 8}
    calibration = {
        name: {"id": i, "drive_mode": 0, "homing_offset": 0, "range_min": -90, "range_max": 90}
        for name, i in motors.items()
    }
    (tmp_path / "right.json").write_text(json.dumps(calibration))
    cfg = openarm_cfg(channel, "right", interface="virtual", id="right")
    return replace(cfg, calibration_dir=str(tmp_path), **PATIENT, **FAST)


@pytest.fixture
def opened() -> Iterator[Callable[..., LeRobotArm]]:
    """opened(cfg, ...): an arm in control until the test ends."""
    with ExitStack() as stack:
        yield lambda cfg, spec=openarm.RIGHT, clock=None: stack.enter_context(LeRobotArm(cfg, spec, clock))
