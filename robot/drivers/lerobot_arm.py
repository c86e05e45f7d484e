"""Any LeRobot robot with one arm and a gripper as an ArmDriver, fed by the servo. Not a safety function.

One thread, the servo's, makes all calls of LeRobot: at every slot a target out, then a reading in. They block, may only be
made by one thread at a time, and drop packets without a word; everybody else gets the newest reading or an error, at once.
"""

import threading
from pathlib import Path
from typing import Self

import numpy as np

from ..clock import Clock, MonotonicClock
from ..errors import DeviceFault, DeviceNotFound, DeviceTimeout, StaleReading
from ..interpolator import Setpoint
from ..servo import Servo, ServoStats
from ..types import ArmCommand, ArmSpec, ArmState
from .leaving import leave
from .lerobot_config import LeRobotArmCfg
from .lerobot_link import RECOVER, LeRobotLink

REST_WITHIN_S = 3.0  # from full speed the servo needs 0.5 s


class LeRobotArm:
    """ArmDriver; a context manager that connects, holds where the arm stands, and on the way out comes to rest and lets go.

    Connecting makes the arm limp for 0.1 to 0.2 s, since LeRobot switches the motors off and on: let it rest on something.
    On any fault the arm brakes inside the limits, holds, and refuses everything until the operator's `recover`.
    """

    def __init__(self, cfg: LeRobotArmCfg, spec: ArmSpec, clock: Clock | None = None) -> None:
        """Raises ConfigError if LeRobot knows no such robot, or `cfg`, `spec` and the robot disagree on its joints."""
        self.spec = spec
        self._cfg, self._clock, self._name = cfg, clock or MonotonicClock(), spec.name
        self._link = LeRobotLink(cfg, spec, self._clock)
        self._inside = False  # its context
        self._servo: Servo | None = None
        self._on_target_at = 0.0  # s, when no joint was too far behind; only the servo's thread looks at it
        self._trouble = ""  # what the newest exchange that failed said
        self._latch = threading.Lock()
        self._fault: DeviceFault | None = None

    def __enter__(self) -> Self:
        if self._inside:
            raise DeviceFault(self._name, "it is in use already; make another object to open it again")
        self._connect()
        self._inside = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        self._inside = False
        leave(self._come_to_rest, self._let_go, error)

    def read(self) -> ArmState:
        """Newest measurement; never waits. Its `t` is when the motor that was heard least recently answered.

        Velocity is the motors', or from their positions; effort is their torque, or 0 if LeRobot gives none. Raises
        StaleReading as soon as one motor has not answered for `max_age_s`; DeviceFault after `fault_age_s`, and for
        everything else that a person should look at, until `recover`.
        """
        self._check(self._opened())
        state = self._link.reading.state
        assert state is not None  # control is only taken with one
        return state

    def command(self, cmd: ArmCommand) -> ArmCommand:
        """Send a target; returns it as clipped to the joint range (less the margin) and to an opening of 0..1."""
        servo = self._opened()
        self._check(servo)
        target = servo.command(np.append(cmd.q, cmd.gripper))
        return ArmCommand(target[:-1], float(target[-1]))

    def hold(self) -> None:
        """Brake inside the limits and stay, the gripper, too. Idempotent, from any thread."""
        self._opened().hold()

    def look(self) -> str:
        """Whether the port is there; the arm is not touched, since connecting makes it limp. Raises DeviceNotFound."""
        port = self._cfg.port
        on_network = Path("/sys/class/net") / port
        if self._cfg.interface in ("", "socketcan") and on_network.exists():
            return f"CAN network {port} is {(on_network / 'operstate').read_text().strip()}; the motors were not asked"
        if Path(port).exists() and port:
            return f"serial port {port} is there; the motors were not asked"
        advice = "plug the adapter in; for CAN: sudo lerobot-setup-can --mode=setup"
        raise DeviceNotFound(self._name, f"there is neither a network nor a serial port '{port}'; {advice}")

    @property
    def servo_stats(self) -> ServoStats:
        """Exchanges, overruns and timeouts since control was taken."""
        return self._opened().stats

    def recover(self) -> None:
        """Clear the motors' errors, switch them on and take control where the arm stands. Only for an operator who looked.

        If nothing answers any more it connects again, and the arm is limp for 0.1 to 0.2 s. Outside of the context, when
        `with` refuses to begin, it clears errors and lets go. Raises DeviceError if the arm is not well; call it again.
        """
        link = self._link
        if not self._inside:
            try:
                link.connect()
                link.switch_on()
            finally:
                self._let_go()
            return
        if self._servo is not None and self._fault is None and not self._servo.failed:
            return
        self._stop_servo()
        if link.connected:
            try:
                link.switch_on()
                self._take_control()
                return
            except DeviceTimeout:
                if link.reading.heard:  # the others answer: to connect again would make them limp for nothing
                    raise
            self._let_go()
        self._connect()

    def _connect(self) -> None:
        """Connect and take control, or let go again."""
        try:
            self._link.connect()
            self._take_control()
        except BaseException:
            self._let_go()
            raise

    def _take_control(self) -> None:
        """Begin to hold the measured pose."""
        state = self._link.first_reading()
        start = np.append(state.q, state.gripper)
        servo = Servo(self._name, self._cfg.limits(self.spec), start, self._exchange, self._cfg.servo, self._clock)
        self._fault, self._trouble, self._on_target_at = None, "", self._clock.now()
        self._servo = servo
        servo.__enter__()

    def _exchange(self, setpoint: Setpoint) -> None:
        """A target out, a reading in; the servo's thread calls this. The age of the reading tells what failed exchanges mean."""
        link, state = self._link, self._link.reading.state
        assert state is not None
        lead = self._cfg.gripper_lead
        try:
            # A path may begin outside of the range, by the tolerance at most; LeRobot would clip it, too.
            q = np.clip(setpoint.q[:-1], self.spec.q_min, self.spec.q_max)
            link.send(q, float(np.clip(setpoint.q[-1], state.gripper - lead, state.gripper + lead)))
            link.observe()
            self._check_lag(setpoint)
        except link.io_errors as error:
            self._trouble = f" (LeRobot: {error})"
        except DeviceFault as fault:
            self._keep(fault)
        if self._judge() is not None and self._servo is not None:
            self._servo.hold()

    def _check_lag(self, setpoint: Setpoint) -> None:
        """Raises DeviceFault if a joint has been too far behind its target for too long."""
        state, now, allowed = self._link.reading.state, self._clock.now(), self._cfg.max_lag_rad
        assert state is not None
        lag = np.abs(setpoint.q[:-1] - state.q)
        worst = int(lag.argmax())
        if lag[worst] <= allowed:
            self._on_target_at = now
        elif now - self._on_target_at > self._cfg.max_lag_s:
            raise DeviceFault(
                self._name,
                f"{self.spec.joint_names[worst]} is {lag[worst]:.2f} rad behind its target, allowed is {allowed}: "
                f"blocked, too weak, or its reading is frozen; {RECOVER}",
            )

    def _check(self, servo: Servo) -> None:
        """Raise whatever stands in the way of reading and commanding."""
        servo.read()  # what nobody foresaw in its thread
        error = self._judge()
        if error is not None:
            servo.hold()
            raise type(error)(self._name, error.message) from error

    def _judge(self) -> DeviceFault | StaleReading | None:
        """The fault that is latched, or what the age of the reading means. Any thread may ask."""
        if self._fault is not None:
            return self._fault
        cfg, link, now = self._cfg, self._link, self._clock.now()
        age = now - min(t for _, t in link.reading.heard)
        if age <= cfg.max_age_s:
            return None
        who = link.reading.silent(link.motors, now - cfg.max_age_s)
        if age <= cfg.fault_age_s:
            return StaleReading(
                self._name, f"{who} last answered {age:.2f} s ago, allowed is {cfg.max_age_s} s{self._trouble}"
            )
        message = f"{who} has not answered for {age:.2f} s{self._trouble}; check power and cables, then call recover()"
        return self._keep(DeviceFault(self._name, message))

    def _keep(self, fault: DeviceFault) -> DeviceFault:
        """Latch the first fault."""
        with self._latch:
            self._fault = self._fault or fault
            return self._fault

    def _opened(self) -> Servo:
        if self._servo is None:
            raise DeviceFault(
                self._name, "not in control; use the arm within `with`, or call recover() again if that failed"
            )
        return self._servo

    def _come_to_rest(self) -> None:
        """Hold and wait until the reference stands."""
        if self._servo is None:
            return
        self._servo.hold()
        deadline = self._clock.now() + REST_WITHIN_S
        while not (self._servo.failed or self._servo.at_rest) and self._clock.now() < deadline:
            self._clock.sleep_until(self._clock.now() + 0.01)

    def _stop_servo(self) -> None:
        servo, self._servo = self._servo, None
        if servo is not None:
            servo.__exit__()

    def _let_go(self) -> None:
        """Close everything, so that another program can connect."""
        try:
            self._stop_servo()
        finally:
            self._link.close()
