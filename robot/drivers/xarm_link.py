"""One connection to a UFACTORY control box through its SDK: every answer is checked, and the first fault stays.

The SDK returns codes and goes on, keeps its last report for ever, and sets a time-out for every socket of the process.
"""

import importlib
import socket
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from .. import xarm7
from ..clock import Clock
from ..errors import ConfigError, DeviceFault, DeviceNotFound, DeviceTimeout, OperatorNeeded, StaleReading
from .within import within

NAME = xarm7.SPEC.name
READY = (0, 1, 2)  # states: told to go on, moving, standing
STATES = {3: "paused", 4: "stopped", 5: "its mode or a setting was changed", 6: "being stopped"}
STOP_BUTTONS = (1, 2, 3)  # errors: button of the control box, its emergency input, three-state switch
FINE = (0, 2)  # codes: done; done, and there is a warning
NO_ANSWER = (-1, 3, 8)  # codes: not connected, no answer in time, not sent
REFUSALS = {
    1: "the arm has an error that nobody has cleared",
    9: "the arm is not ready to move",
    10: "the control box calls the command invalid",
    12: "a parameter is wrong",
    -2: "the arm is not enabled",
    -6: "the pose is out of reach",
    -7: "a joint is beyond its range",
    -8: "a joint is beyond its range",
    -9: "emergency stop",
    102: "the gripper has an error",
    103: "the gripper is not enabled",
}
SERVO_ADVICE = "press the emergency stop, release it, switch the arm on again; if it comes back, ask UFACTORY"
ADVICE = {
    **dict.fromkeys(range(10, 18), SERVO_ADVICE),
    60: "the tool would move too fast for servo mode: lower speed_scale",
}  # what the SDK's table leaves open
CLOSED_WITHIN_S = 2.0
ASK_FOR_VERSION = bytes([0, 1, 0, 2, 0, 1, 1])  # transaction 1, private protocol, one byte to come: function 1
RECOVER = "look at the arm and at what it touches, then call recover()"


@dataclass(frozen=True)
class Report:
    """What the control box sends about 100 times a second without being asked."""

    t: float  # when it came, s, monotonic clock
    state: int
    mode: int


class XArmLink:
    """A connection; any thread may call. After a fault every `call` raises it: make a new link to go on."""

    def __init__(self, host: str, clock: Clock, *, reports: bool = True) -> None:
        """`host` by name or number. Raises ConfigError without the SDK, DeviceNotFound without such a host."""
        self._host, self._clock = host, clock
        sdk = _import_sdk()
        try:
            self._address = socket.gethostbyname(host)  # the SDK takes a name for a serial port
        except (OSError, UnicodeError) as error:
            raise DeviceNotFound(NAME, f"there is no host {host}: {error}; check the address") from error
        self._api: Any = sdk.XArmAPI(
            self._address,
            is_radian=True,
            do_not_open=True,
            report_type="real",
            enable_report=reports,
            check_is_pause=False,  # else commands to a paused arm wait for ever
            check_cmdnum_limit=False,  # the same when the control box stops taking commands
            baud_checkset=False,  # else the SDK clears errors by itself
            timed_comm=False,
            forbid_uds=True,
        )
        self._report: Report | None = None
        self._fault: DeviceFault | None = None

    def open(self, timeout_s: float) -> None:
        """Connect. Raises DeviceNotFound, or DeviceTimeout if nobody answers."""
        if self._api.connected:
            return
        self._knock(timeout_s)
        self._api.register_report_callback(self._on_report, report_cartesian=False, report_joints=False)
        try:
            within(NAME, self._api.connect, timeout_s, f"{self._host} stopped answering while the SDK connected")
        except Exception as error:
            self.close()
            if type(error) is not Exception:  # the SDK raises nothing more precise
                raise
            raise DeviceFault(
                NAME, f"the SDK cannot connect to {self._host}: {error}; restart the control box"
            ) from error

    def close(self) -> None:
        stream = self._api._arm._stream
        if stream is not None:  # before the reports, or the SDK's thread connects those again
            stream.close()
            stream.join(CLOSED_WITHIN_S)
        self._api.disconnect()

    @property
    def fault(self) -> DeviceFault | None:
        """The first fault since the link was made."""
        return self._fault

    @property
    def firmware(self) -> tuple[int, int, int]:
        return self._api.version_number

    @property
    def joints(self) -> int:
        return self._api.axis

    @property
    def report(self) -> Report | None:
        return self._report

    def limit_waiting(self, timeout_s: float) -> None:
        """Wait no longer than that for an answer from now on."""
        self._api.set_timeout(timeout_s)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """What the SDK's method returns besides its code. Raises DeviceFault if it or the arm reports an error."""
        if self._fault is not None:
            raise self._fault
        code, value = self._try(method, *args, **kwargs)
        if code in FINE and not self._api.has_err_warn:
            return value
        error = self.arm_error()
        if code in FINE and error == 0:
            return value
        raise self._latch(method, code, error)

    def check(self, mode: int, max_age_s: float) -> None:
        """Raises the fault, StaleReading if reports have stopped coming, DeviceFault if the arm left `mode` or stopped."""
        if self._fault is None and not self._api.connected:
            self._latch("connection", NO_ANSWER[0], None)
        if self._fault is not None:
            raise self._fault
        report = self._report
        age = float("inf") if report is None else self._clock.now() - report.t
        if report is None or age > max_age_s:
            raise StaleReading(
                NAME, f"the control box's last report is {age:.2f} s old, allowed is {max_age_s} s; check the cable"
            )
        if report.state not in READY or report.mode != mode:
            error = self.arm_error()
            if error:
                raise self._latch("motion", 1, error)
            self._fault = DeviceFault(
                NAME,
                f"another program or UFACTORY Studio took over: state {report.state} "
                f"({STATES.get(report.state, 'ready')}), mode {report.mode}, expected mode {mode}; {RECOVER}",
            )
            raise self._fault

    def arm_error(self) -> int | None:
        """The arm's error code, 0 for none; None if it does not answer."""
        code, value = self._try("get_err_warn_code")
        return int(value[0]) if code in FINE else None

    def refuse_unless_clear(self) -> None:
        """Raises OperatorNeeded while an emergency stop is pressed, DeviceFault if there is another error."""
        error = self.arm_error()
        if error in STOP_BUTTONS:
            raise OperatorNeeded(
                f"{NAME}: {_meaning(error)}. If it is released already, see that the cell is clear and call recover()"
            )
        if error != 0:
            raise DeviceFault(NAME, self._explained("connection", 1, error))

    def clear(self) -> None:
        """Clear errors and warnings: only when an operator asks for it. Raises like `refuse_unless_clear`."""
        self._try("clean_error")
        self._try("clean_warn")
        error = self.arm_error()
        if error in STOP_BUTTONS:
            raise OperatorNeeded(
                f"{NAME}: an emergency stop is still pressed ({_meaning(error)}); see that the cell is clear and release it"
            )
        self.refuse_unless_clear()

    def stop(self) -> None:
        """Stop at once, as well as the connection allows; afterwards the arm takes no commands."""
        self._try("set_state", 4)

    def _knock(self, timeout_s: float) -> None:
        """See that somebody answers: else the SDK goes on asking for minutes."""
        port = importlib.import_module("xarm.core.config.x_config").XCONF.SocketConf.TCP_CONTROL_PORT
        try:
            with socket.create_connection((self._address, port), timeout_s) as knocking:
                knocking.sendall(ASK_FOR_VERSION)
                answered = bool(knocking.recv(1))
        except TimeoutError as error:
            raise DeviceTimeout(
                NAME,
                f"{self._host} does not answer within {timeout_s} s; check the address, or restart the control box",
            ) from error
        except OSError as error:
            raise DeviceNotFound(
                NAME,
                f"no control box at {self._host}: {error}; check the cable, the address and that it is switched on",
            ) from error
        if not answered:
            raise DeviceNotFound(NAME, f"{self._host} hangs up; is it the control box of an xArm?")

    def _on_report(self, item: dict[str, Any]) -> None:
        self._report = Report(self._clock.now(), item["state"], self._api.mode)

    def _try(self, method: str, *args: Any, **kwargs: Any) -> tuple[int, Any]:
        """Code and value; some methods return a number, some a pair, some a list that begins with the code."""
        try:
            answer = getattr(self._api, method)(*args, **kwargs)
        except Exception:
            if self._api.connected:
                raise
            return NO_ANSWER[0], None  # the SDK stumbles over what it did not get
        if isinstance(answer, int):
            return answer, None
        return answer[0], answer[1] if isinstance(answer, tuple) else None

    def _latch(self, method: str, code: int, error: int | None) -> DeviceFault:
        if self._fault is None:
            self._fault = DeviceFault(NAME, self._explained(method, code, error))
        return self._fault

    def _explained(self, method: str, code: int, error: int | None) -> str:
        if error in STOP_BUTTONS:
            return f"{_meaning(error)}; clear the cell, then call recover()"
        if error:
            return f"{_meaning(error)}; {RECOVER}"
        if error is None or code in NO_ANSWER:
            return (
                f"no answer from {self._host} to {method} (code {code}); if the arm still moves, press the emergency stop; "
                "check the cable and the control box, then call recover()"
            )
        return f"{method} was refused: {REFUSALS.get(code, 'not documented')} (code {code}); {RECOVER}"


def _meaning(error: int) -> str:
    """The vendor's words for an error of the arm."""
    codes = importlib.import_module("xarm.core.config.x_code")
    said = codes.ControllerError(error)
    advice = ADVICE.get(error) or said.description["en"].rstrip(".") or "ask UFACTORY"
    return f"error C{error}, {said.title['en'].strip()}: {advice}"


class _Sockets(ModuleType):
    """The module `socket`, except that it leaves the default time-out of the process alone."""

    def __getattr__(self, name: str) -> Any:
        return getattr(socket, name)

    def setdefaulttimeout(self, timeout: float | None) -> None:
        """Nothing: the SDK gives its own sockets a time-out of their own besides."""


def _import_sdk() -> ModuleType:
    try:
        sdk = importlib.import_module("xarm.wrapper")
        port: Any = importlib.import_module("xarm.core.comm.socket_port")
    except ImportError as error:
        raise ConfigError(f'{NAME}: xarm-python-sdk is not installed ({error}); pip install "armflow[xarm]"') from error
    if port.socket is socket:  # it sets the default on every connect, also when its threads reconnect by themselves
        port.socket = _Sockets("socket")
    return sdk
