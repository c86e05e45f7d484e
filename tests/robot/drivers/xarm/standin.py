"""A control box with an xArm7 and a gripper made of software, speaking UFACTORY's private TCP protocol on the loopback.

It is as strict as the vendor describes: states, modes, what is dropped, errors that stay. It knows no masses and no contact.
"""

import os
import random
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

CONTROL_PORT = 10502  # 502 on a real one, which only root may listen on; the tests tell the SDK
REPORT_PORT = 30003
REPORT_S = 0.01
SPEED_LIMIT = np.pi  # rad/s
SERVO_STEP = SPEED_LIMIT * 0.02  # rad: a point of servo mode that is further away asks for more than that speed
Q_MIN = np.array([-6.2832, -2.0421, -6.2832, -0.1048, -6.2832, -1.693, -6.2832])
Q_MAX = np.array([6.2832, 2.0246, 6.2832, 3.927, 6.2832, 3.1416, 6.2832])
READY = np.array([0.0, -0.2, 0.0, 1.0, 0.0, 1.2, 0.0])
STOPPED, CHANGED = 4, 5
BAUD_INDEX = 11  # 2 000 000 baud
GRIPPER_RATE = 2000.0  # pulses a second
TICK_S = 0.002
DQ_FILTER_S = 0.02  # the speed that is reported in servo mode, where the arm goes from point to point

# Function codes.
GET_VERSION, MOTION_EN, SET_STATE, GET_STATE, GET_CMDNUM, GET_ERROR, CLEAN_ERR, CLEAN_WAR = (
    1,
    11,
    12,
    13,
    14,
    15,
    16,
    17,
)
SET_MODE, MOVE_JOINT, MOVE_SERVOJ, GET_JOINT_POS, GET_REDUCED = 19, 23, 29, 42, 53
RS485, TOOL_READ = 124, 128
SETTINGS = {37: "collision_sensitivity", 47: "reduced_tcp_speed", 48: "reduced_joint_speed", 50: "reduced_mode",
            52: "tcp_boundary", 58: "joint_range", 59: "fence", 60: "rebound", 77: "self_collision",
            78: "tool_model"}  # fmt: skip
FLOATS, INTS = (47, 48, 58), (52,)  # settings that are not single bytes


class StandIn:
    """One control box. Attributes may be changed from the test while the SDK is connected; `lock` keeps them together."""

    def __init__(self, host: str, version: str) -> None:
        self.host, self.version = host, version
        self.lock = threading.RLock()
        self.q, self.dq = READY.copy(), np.zeros(7)
        self.target, self.speed, self.acceleration = READY.copy(), 0.0, 1.0
        self.mode, self.state, self.error, self.warning = 0, STOPPED, 0, 0
        self.enabled = self.pressed = False
        self.settings: dict[str, Any] = {
            "joint_range": [0.0] * 14, "tcp_boundary": [0] * 6, "reduced_tcp_speed": [0.0], "reduced_joint_speed": [0.0],
            "reduced_mode": 0, "fence": 0, "rebound": 0,
        }  # fmt: skip
        self.refuse: set[int] = set()  # function codes that are answered as invalid
        self.forget: set[str] = set()  # settings that are accepted and not kept
        self.mute = False  # no answers, no reports
        self.reports = True
        self.over = False
        self.targets: list[np.ndarray] = []  # that were accepted
        self.cleared = 0  # times somebody cleared errors
        self.gripper = {0x0100: 0, 0x0101: 9, 0x0303: 0, 0x000F: 0}  # registers
        self.gripper_position, self.gripper_target, self.gripper_object = 850.0, 850.0, 0.0  # pulses
        self.serial_s = 0.01  # how long a message to the gripper takes
        self.baud_index = BAUD_INDEX
        self.gripper_commands: list[int] = []  # state of the arm when each of them came
        self.connections: dict[int, list[socket.socket]] = {CONTROL_PORT: [], REPORT_PORT: []}
        self._now = time.monotonic()

    # What a test orders

    def press_stop(self) -> None:
        with self.lock:
            self.pressed = True
            self._fail(1)
            self.enabled = False

    def release_stop(self) -> None:
        with self.lock:
            self.pressed = False

    def fail(self, error: int) -> None:
        with self.lock:
            self._fail(error)

    def drop(self, port: int) -> None:
        """Cut the connections to a port; new ones are accepted."""
        with self.lock:
            for connection in self.connections[port]:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    # The arm

    def advance(self) -> None:
        """Let the arm and the gripper move until now."""
        now = time.monotonic()
        ticks = int((now - self._now) / TICK_S)
        self._now += ticks * TICK_S
        for _ in range(min(ticks, 5000)):
            self._tick()

    def _tick(self) -> None:
        reach = GRIPPER_RATE * TICK_S
        blocked = max(self.gripper_target, self.gripper_object)
        self.gripper_position += float(np.clip(blocked - self.gripper_position, -reach, reach))
        if self.state >= 3:
            self.dq = np.zeros(7)
            return
        away = self.target - self.q
        if self.mode == 1:
            step = np.clip(away, -SPEED_LIMIT * TICK_S, SPEED_LIMIT * TICK_S)
            self.q = self.q + step
            self.dq = self.dq + (step / TICK_S - self.dq) * TICK_S / DQ_FILTER_S
        else:
            wanted = np.sign(away) * np.minimum(self.speed, np.sqrt(2 * self.acceleration * np.abs(away)))
            change = self.acceleration * TICK_S
            self.dq = self.dq + np.clip(wanted - self.dq, -change, change)
            there = (np.abs(away) < 1e-3) & (np.abs(self.dq) < 2 * change)
            self.dq[there], self.q[there] = 0.0, self.target[there]
            self.q = self.q + self.dq * TICK_S
        self.state = 1 if np.abs(self.dq).max() > 1e-3 else 2

    def _fail(self, error: int) -> None:
        self.advance()
        self.error, self.state = error, STOPPED
        self.target = self.q.copy()

    def _take(self, target: np.ndarray) -> None:
        if self.error or self.state >= 3:
            return
        if (target < Q_MIN).any() or (target > Q_MAX).any():
            return self._fail(23)
        if self.mode == 1 and np.abs(target - self.target).max() > SERVO_STEP:
            return self._fail(24)
        self.target = target
        self.targets.append(target)

    # The protocol

    def answer(self, function: int, data: bytes) -> bytes:
        """Status byte and values."""
        if function == RS485:  # does not hold up the other connections
            time.sleep(self.serial_s)
        with self.lock:
            self.advance()
            values = b"" if function in self.refuse else self._do(function, data)
            status = 0x08 if function in self.refuse else 0
            status |= 0x40 * bool(self.error) | 0x20 * bool(self.warning) | 0x10 * (self.state >= STOPPED)
            return bytes([status]) + values

    def _do(self, function: int, data: bytes) -> bytes:
        if function in SETTINGS:
            if function in FLOATS:
                value: Any = list(struct.unpack(f"<{len(data) // 4}f", data))
            elif function in INTS:
                value = list(struct.unpack(f"<{len(data) // 4}i", data))
            else:
                value = data[0]
            if SETTINGS[function] not in self.forget:
                self.settings[SETTINGS[function]] = value
        elif function == GET_VERSION:
            return f"7,7,XI130500B00L00,AC130500,v{self.version}".encode().ljust(40, b"\0")
        elif function == MOTION_EN:
            self.enabled = bool(data[1]) and not self.pressed
        elif function == SET_STATE:
            self._set_state(data[0])
        elif function == GET_STATE:
            return bytes([self.state])
        elif function == GET_CMDNUM:
            return bytes(2)
        elif function == GET_ERROR:
            return bytes([self.error, self.warning])
        elif function == CLEAN_ERR:
            self.cleared += 1
            self.error = self.error if self.pressed else 0
        elif function == CLEAN_WAR:
            self.warning = 0
        elif function == SET_MODE:
            self.mode, self.state, self.target = data[0], CHANGED, self.q.copy()
        elif function == MOVE_JOINT and self.mode == 6:
            *target, self.speed, self.acceleration, _ = struct.unpack("<10f", data)
            self._take(np.array(target))
        elif function == MOVE_SERVOJ and self.mode == 1:
            self._take(np.array(struct.unpack("<10f", data)[:7]))
        elif function == GET_JOINT_POS:
            effort = np.arange(7.0)
            return np.concatenate([self.q, self.dq, effort]).astype("<f4").tobytes()[: 28 * data[0]]
        elif function == GET_REDUCED:
            s = self.settings
            return (bytes([s["reduced_mode"]]) + struct.pack(">6h", *s["tcp_boundary"])
                    + struct.pack("<2f", *s["reduced_tcp_speed"], *s["reduced_joint_speed"])
                    + struct.pack("<14f", *s["joint_range"]) + bytes([s["fence"], s["rebound"]]))  # fmt: skip
        elif function == TOOL_READ:
            return struct.pack(">i", self.baud_index)
        elif function == RS485:
            return data[:1] + self._gripper(data[1:])
        return b""

    def _set_state(self, state: int) -> None:
        if state == 0:
            if self.enabled and not self.error:
                self.state, self.target = 2, self.q.copy()
        else:
            self.state, self.target = state, self.q.copy()

    def _gripper(self, message: bytes) -> bytes:
        slave, function, address, count = struct.unpack(">BBHH", message[:6])
        if function == 3:
            if address == 0x0702:
                return struct.pack(">BBBi", slave, function, 4, round(self.gripper_position))
            return struct.pack(">BBBH", slave, function, 2, self.gripper[address])
        values = message[7:]
        if address in (0x0700, 0x0C00):  # the position is the last number of the message
            self.gripper_target = float(struct.unpack(">i", values[-4:])[0])
            self.gripper_commands.append(self.state)
        elif address == 0x0109:
            self.gripper[0x000F] = 0
        else:
            self.gripper[address] = struct.unpack(">H", values)[0]
        return struct.pack(">BBHH", slave, function, address, count)

    def report(self) -> bytes:
        with self.lock:
            self.advance()
            body = bytes([self.state | self.mode << 4, 0, 0])
            body += self.q.astype("<f4").tobytes() + bytes(24) + np.arange(7, dtype="<f4").tobytes() + bytes(48)
        return struct.pack(">I", len(body) + 4) + body


class _Control(socketserver.BaseRequestHandler):
    """Frames of transaction, protocol, length, function, data; the answer has a status byte before its data."""

    def handle(self) -> None:
        box: StandIn = self.server.box  # type: ignore[attr-defined]
        with _kept(box.connections[CONTROL_PORT], self.request), self.request.makefile("rb") as stream:
            try:
                while len(head := stream.read(7)) == 7:
                    transaction, protocol, length, function = struct.unpack(">HHHB", head)
                    answer = box.answer(function, stream.read(length - 1))
                    if not box.mute:
                        self.request.sendall(
                            struct.pack(">HHHB", transaction, protocol, len(answer) + 1, function) + answer
                        )
            except OSError:
                pass  # the connection was cut


class _Report(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        box: StandIn = self.server.box  # type: ignore[attr-defined]
        with _kept(box.connections[REPORT_PORT], self.request):
            try:
                while not box.over:
                    if box.reports and not box.mute:
                        self.request.sendall(box.report())
                    time.sleep(REPORT_S)
            except OSError:
                pass


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = False  # so that closing waits for them
    allow_reuse_address = True


@contextmanager
def _kept(connections: list[socket.socket], connection: socket.socket) -> Iterator[None]:
    connections.append(connection)
    try:
        yield
    finally:
        connections.remove(connection)


@contextmanager
def control_box(version: str = "1.13.0") -> Iterator[StandIn]:
    """A box of its own on a free loopback address: the ports of the protocol are fixed."""
    box = StandIn("", version)
    servers = _bind(box)
    threads = [threading.Thread(target=s.serve_forever, args=(0.02,), daemon=True) for s in servers]
    for thread in threads:
        thread.start()
    try:
        yield box
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
        box.over = True
        for port in box.connections:
            box.drop(port)
        for server in servers:
            server.server_close()


def _bind(box: StandIn) -> list[_Server]:
    numbers = random.Random(os.getpid() ^ time.monotonic_ns())
    while True:
        box.host = f"127.{numbers.randint(2, 254)}.{numbers.randint(1, 254)}.{numbers.randint(2, 254)}"
        servers: list[_Server] = []
        try:
            for port, handler in ((CONTROL_PORT, _Control), (REPORT_PORT, _Report)):
                servers.append(_Server((box.host, port), handler))
                servers[-1].box = box  # type: ignore[attr-defined]
            return servers
        except OSError:
            for server in servers:
                server.server_close()
