"""LeRobot's robot as something that takes targets and gives readings that know how old they are, and which motor is silent.

Every call blocks and belongs to one thread at a time: LeRobot's exchanges take from the bus whatever they find there.
"""

import importlib.util
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..clock import Clock
from ..errors import DeviceFault, DeviceNotFound, DeviceTimeout, OperatorNeeded
from ..types import ArmSpec, ArmState, Floats
from .can_watch import DAMIAO_CLEAR_ERROR, DAMIAO_ENABLED, DAMIAO_STATUS, CanWatch
from .lerobot_config import LeRobotArmCfg, make_robot
from .lerobot_joints import JointMap, Measured

FIRST_READING_S = 2.0  # how long motors may take to answer after connecting
RETRY_S = 0.01  # between two attempts at it that fail
SPEED_OVER_S = 0.05  # positions this far apart give the velocity of motors that do not measure it: encoders are coarse
SAME_UNITS = 1e-3  # LeRobot's units; by less a target may differ from what was sent
RECOVER = "look at the arm and at what it touches, then call recover()"


@dataclass(frozen=True, eq=False)
class Reading:
    """What the motors have said so far."""

    state: ArmState | None = None  # None until each has answered once
    heard: tuple[tuple[str, float], ...] = ()  # motor, when it last answered; those that have not are missing
    status: tuple[tuple[str, int], ...] = ()  # motor, its Damiao status

    def silent(self, motors: tuple[str, ...], since: float) -> str:
        """Names of those that have not answered since that time."""
        heard = dict(self.heard)
        return ", ".join(m for m in motors if m not in heard or heard[m] < since)


class LeRobotLink:
    """`reading` is the newest; it is replaced, never changed, so that any thread may look at it."""

    def __init__(self, cfg: LeRobotArmCfg, spec: ArmSpec, clock: Clock) -> None:
        """Raises ConfigError if LeRobot knows no such robot, or `cfg`, `spec` and the robot disagree on its joints."""
        self._cfg, self._spec, self._clock, self._name = cfg, spec, clock, spec.name
        self._map = JointMap(cfg, spec)
        self._robot = make_robot(cfg)
        self._map.check(self._robot.action_features)
        self._map.check_range(spec, getattr(self._robot.config, "joint_limits", None))
        self._watch: CanWatch | None = None  # of robots on CAN
        self._past: deque[tuple[float, Floats]] = deque()  # t, q: as many as velocity needs
        self.motors = self._map.motors
        self.reading = Reading()
        self.io_errors = _io_errors()  # what a failed exchange raises; the next one may work

    @property
    def connected(self) -> bool:
        return bool(self._robot.is_connected)

    def connect(self) -> None:
        """Raises DeviceNotFound, or OperatorNeeded if the robot is not calibrated."""
        try:
            self._robot.connect(calibrate=False)  # LeRobot's calibration asks questions on the terminal
        except (*self.io_errors, RuntimeError, ValueError) as error:
            place = self._cfg.port or self._cfg.type
            raise DeviceNotFound(self._name, f"LeRobot cannot connect to {place}: {error}") from error
        if not self._robot.is_calibrated:
            raise OperatorNeeded(
                f"{self._name}: LeRobot has no calibration '{self._cfg.id}' for it; run lerobot-calibrate with "
                f"--robot.type={self._cfg.type} and a --robot.id, and give that id here"
            )
        bus = self._bus
        if getattr(bus, "canbus", None) is not None:
            self._watch = bus.canbus = CanWatch(bus.canbus)

    def close(self) -> None:
        """Disconnect, so that another program can connect. Does nothing if that is so."""
        self._watch, bus = None, self._bus
        try:
            if self.connected:
                self._robot.disconnect()
            elif getattr(bus, "canbus", None) is not None:  # LeRobot leaves it open when its handshake fails
                bus.canbus.shutdown()
                bus.canbus = None
        except self.io_errors as error:
            raise DeviceFault(self._name, f"it did not let go: {error}; switch the arm off") from error

    def first_reading(self) -> ArmState:
        """Wait until every motor has answered from now on. Raises DeviceTimeout naming those that have not."""
        self.reading, trouble = Reading(), ""
        self._past.clear()
        deadline = self._clock.now() + FIRST_READING_S
        while self._clock.now() < deadline:
            try:
                self.observe()
            except self.io_errors as error:
                trouble = f" (LeRobot: {error})"
                self._clock.sleep_until(self._clock.now() + RETRY_S)
            if self.reading.state is not None:
                return self.reading.state
        silent = self.reading.silent(self.motors, -np.inf)
        raise DeviceTimeout(self._name, f"no answer from {silent}{trouble}; check power and cables")

    def send(self, q: Floats, opening: float) -> None:
        """Targets (dof,) rad and 0..1. Raises DeviceFault if LeRobot sends anything else than these."""
        action = self._map.action(q, opening)
        sent = self._robot.send_action(action)
        changed = [f"{k} {action[k]:.3f} to {x:.3f}" for k, x in sent.items() if abs(x - action[k]) > SAME_UNITS]
        if changed:
            raise DeviceFault(
                self._name, f"LeRobot changed {', '.join(changed)}; give its config the limits of the arm's model"
            )

    def observe(self) -> None:
        """Ask every motor and renew `reading`. Raises DeviceFault if what they say is no state to work in."""
        t = self._clock.now()  # answers come later than that
        if self._watch is not None:
            self._watch.begin()
        measured = self._map.measured(self._robot.get_observation())
        answers = self._answers()
        heard = dict(self.reading.heard) | dict.fromkeys(answers, t)
        status = dict(self.reading.status) | {motor: s for motor, s in answers.items() if s is not None}
        complete = len(heard) == len(self.motors)  # before that LeRobot makes up what it does not know
        if complete:
            self._refuse_nonsense(measured)
        state = self._state(t, min(heard.values()), measured) if complete else None
        self.reading = Reading(state, tuple(heard.items()), tuple(status.items()))
        faulty = [f"{m} reports '{DAMIAO_STATUS.get(s, hex(s))}'" for m, s in status.items() if s != DAMIAO_ENABLED]
        if faulty:
            raise DeviceFault(self._name, f"{', '.join(faulty)}; {RECOVER}")

    def switch_on(self) -> None:
        """Clear the errors of Damiao motors and switch on those that are off; the others go on as they are."""
        from lerobot.motors.damiao import DamiaoMotorsBus

        if self._watch is None or not isinstance(self._bus, DamiaoMotorsBus):
            return
        import can

        try:
            self.observe()
        except (DeviceFault, *self.io_errors):
            pass  # only the motors' status is wanted here; whoever takes control looks again
        off = [motor for motor, status in self.reading.status if status != DAMIAO_ENABLED]
        try:
            for motor in off:
                message = can.Message(
                    arbitration_id=self._bus.motors[motor].id,
                    data=DAMIAO_CLEAR_ERROR,
                    is_extended_id=False,
                    is_fd=self._bus.use_can_fd,
                )
                self._watch.send(message)
            if off:
                self._bus.enable_torque(off)
        except self.io_errors as error:
            raise DeviceFault(
                self._name, f"{', '.join(off)} cannot be switched on: {error}; check the cable"
            ) from error

    @property
    def _bus(self) -> Any:
        return getattr(self._robot, "bus", None)

    def _answers(self) -> dict[str, int | None]:
        """The motors that answered the observation just made, and their Damiao status; None: they have none."""
        if self._watch is None:
            return dict.fromkeys(self.motors)  # other buses raise if one does not answer
        from lerobot.motors.damiao import DamiaoMotorsBus

        damiao, received, answers = isinstance(self._bus, DamiaoMotorsBus), self._watch.received, {}
        for name, motor in self._bus.motors.items():
            if motor.recv_id in received:
                first = received[motor.recv_id][0]
                answers[name] = first >> 4 if damiao and first & 0xF == motor.id & 0xF else None
        return answers

    def _refuse_nonsense(self, measured: Measured) -> None:
        q, tolerance = measured.q, self._cfg.range_tolerance_rad
        optional = [x for x in (measured.dq, measured.effort) if x is not None]
        if not np.isfinite(np.hstack([q, measured.opening, *optional])).all():
            raise DeviceFault(self._name, f"it measures what is not finite: {measured}; {RECOVER}")
        outside = np.flatnonzero((q < self._spec.q_min - tolerance) | (q > self._spec.q_max + tolerance))
        if len(outside):
            where = ", ".join(f"{self._spec.joint_names[i]} at {np.degrees(q[i]):.1f} degrees" for i in outside)
            raise DeviceFault(
                self._name,
                f"it measures {where}, outside of the joint range; if it is there, move it back by hand, else calibrate "
                "it again; then call recover()",
            )

    def _state(self, now: float, t: float, measured: Measured) -> ArmState:
        dof = self._spec.dof
        return ArmState(
            t=t,
            q=measured.q,
            dq=self._speed(now, measured.q) if measured.dq is None else measured.dq,
            effort=np.zeros(dof) if measured.effort is None else measured.effort,
            gripper=min(max(measured.opening, 0.0), 1.0),
        )

    def _speed(self, t: float, q: Floats) -> Floats:
        """rad/s over the last SPEED_OVER_S, or the one exchange that took longer; 0 at first."""
        self._past.append((t, q))
        while len(self._past) > 2 and t - self._past[1][0] >= SPEED_OVER_S:
            self._past.popleft()
        then, before = self._past[0]
        return (q - before) / (t - then) if t > then else np.zeros_like(q)


def _io_errors() -> tuple[type[Exception], ...]:
    """ConnectionError of LeRobot's buses and, on CAN, python-can's own."""
    if importlib.util.find_spec("can") is None:
        return (OSError,)
    import can

    return (OSError, can.CanError)
