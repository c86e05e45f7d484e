"""A leader that a test can watch, and servos at the far end of a pseudo-terminal: they answer the bytes of the real SDKs.

A servo is its registers; pings, reads, writes and synchronous reads and writes of both protocols go to them. Addresses are
those of LeRobot's own tables.
"""

import os
import select
import threading
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import pytest
from armflow.robot import fr3
from armflow.robot.clock import SimClock
from armflow.robot.types import ArmState
from armflow.teleop.device import TeleopEvent, TeleopInput, ToolDelta
from armflow.teleop.leader import LeaderCfg, LeaderDevice

PING, READ, WRITE, SYNC_READ, SYNC_WRITE = 0x01, 0x02, 0x03, 0x82, 0x83
STATUS = 0x55


class Packets(Protocol):
    """The framing of one protocol."""

    width: int  # bytes of an address or a length
    ping: int  # bytes of registers, from the first on, that answer a ping

    def take(self, data: bytearray) -> tuple[int, int, bytes] | None:
        """Remove the first whole packet from `data`: id, instruction, parameters."""
        ...

    def status(self, id: int, data: bytes) -> bytes: ...


class FeetechPackets:
    """FF FF id length instruction ... sum"""

    width, ping = 1, 0

    def take(self, data: bytearray) -> tuple[int, int, bytes] | None:
        start = data.find(b"\xff\xff")
        if start < 0 or len(data) < start + 4 or len(data) < (end := start + 4 + data[start + 3]):
            return None
        packet = bytes(data[start:end])
        del data[:end]
        assert packet[-1] == ~sum(packet[2:-1]) & 0xFF
        return packet[2], packet[4], packet[5:-1]

    def status(self, id: int, data: bytes) -> bytes:
        body = bytes([id, len(data) + 2, 0]) + data
        return b"\xff\xff" + body + bytes([~sum(body) & 0xFF])


class DynamixelPackets:
    """FF FF FD 00 id length(2) instruction ... CRC(2)"""

    width, ping = 2, 3

    def __init__(self, crc: Callable[[int, bytes, int], int]) -> None:
        self._crc = crc

    def take(self, data: bytearray) -> tuple[int, int, bytes] | None:
        start = data.find(b"\xff\xff\xfd\x00")
        if start < 0 or len(data) < start + 7:
            return None
        end = start + 7 + int.from_bytes(data[start + 5 : start + 7], "little")
        if len(data) < end:
            return None
        packet = bytes(data[start:end])
        del data[:end]
        assert int.from_bytes(packet[-2:], "little") == self._crc(0, packet, len(packet) - 2)
        return packet[4], packet[7], packet[8:-2]

    def status(self, id: int, data: bytes) -> bytes:
        packet = b"\xff\xff\xfd\x00" + bytes([id]) + (len(data) + 4).to_bytes(2, "little") + bytes([STATUS, 0]) + data
        return packet + self._crc(0, packet, len(packet)).to_bytes(2, "little")


class Servos:
    """A bus with servos on it, until `close`."""

    def __init__(self, packets: Packets, table: Mapping[str, tuple[int, int]], models: Mapping[int, int]) -> None:
        """`table`: address and length of each register; `models`: model number of each servo by its id."""
        self._packets, self._table = packets, table
        self._lock = threading.Lock()
        self._registers = {id: bytearray(256) for id in models}
        self.silent = False  # nobody answers
        for id, number in models.items():
            self.set(id, "Model_Number", number)
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        self._wake, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def set(self, id: int, name: str, value: int) -> None:
        address, size = self._table[name]
        with self._lock:
            self._write(id, address, value.to_bytes(size, "little"))

    def get(self, id: int, name: str) -> int:
        with self._lock:
            return int.from_bytes(self._read(id, *self._table[name]), "little")

    def unplug(self) -> None:
        """The port is gone, as when the cable is pulled."""
        self._stop()
        os.close(self._master)
        self._master = -1

    def close(self) -> None:
        self._stop()
        for end in (self._master, self._slave, self._wake, self._waker):
            if end >= 0:
                os.close(end)

    def _stop(self) -> None:
        os.write(self._waker, b".")
        self._thread.join(20)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        data = bytearray()
        while True:
            ready, _, _ = select.select([self._master, self._wake], [], [])
            if self._wake in ready:
                return
            data += os.read(self._master, 1024)
            while (packet := self._packets.take(data)) is not None:
                with self._lock:
                    os.write(self._master, b"" if self.silent else self._answer(*packet))

    def _answer(self, id: int, instruction: int, data: bytes) -> bytes:
        width, status = self._packets.width, self._packets.status
        address, size = (int.from_bytes(data[i * width : (i + 1) * width], "little") for i in range(2))
        if instruction == SYNC_READ:
            return b"".join(status(each, self._read(each, address, size)) for each in data[2 * width :])
        if instruction == SYNC_WRITE:
            rest = data[2 * width :]
            for i in range(0, len(rest), size + 1):
                self._write(rest[i], address, rest[i + 1 : i + 1 + size])
            return b""
        if id not in self._registers:
            return b""
        if instruction == PING:
            return status(id, self._read(id, 0, self._packets.ping))
        if instruction == READ:
            return status(id, self._read(id, address, size))
        assert instruction == WRITE
        self._write(id, address, data[width:])
        return status(id, b"")

    def _read(self, id: int, address: int, size: int) -> bytes:
        return bytes(self._registers[id][address : address + size])

    def _write(self, id: int, address: int, data: bytes) -> None:
        self._registers[id][address : address + len(data)] = data


class Clutch:
    """HandDevice that the test holds, and that says what the test wants."""

    name, usage = "pedal", "step on it"

    def __init__(self) -> None:
        self.held, self.event, self.opened, self.told = True, None, False, list[float]()

    def __enter__(self) -> Self:
        self.opened = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.opened = False

    def start_episode(self, gripper: float) -> None:
        self.told.append(gripper)

    def read(self, state: ArmState) -> TeleopInput:
        event: TeleopEvent | None = self.event
        return TeleopInput(self.held, ToolDelta(np.ones(3), np.ones(3)), 0.123, event)


class WatchedLeader(LeaderDevice):
    """Says when its thread has read."""

    def __init__(self, cfg: LeaderCfg, clock: SimClock, open_arm: Any = None) -> None:
        self.clutch, self.said, self.readings = Clutch(), list[str](), 0
        names = fr3.SPEC.joint_names
        super().__init__(cfg, self.clutch, names, say=self.said.append, open_arm=open_arm, now=clock.now)

    def _listen(self) -> None:
        super()._listen()
        self.readings += 1

    def wait_for_reading(self) -> None:
        """Until one is there that was begun after now."""
        end, enough = time.monotonic() + 30, self.readings + 2
        while self.readings < enough:
            assert time.monotonic() < end
            time.sleep(0.001)


@pytest.fixture
def make_leader(clock: SimClock) -> Callable[..., WatchedLeader]:
    """make_leader(cfg, open_arm): a leader on the test's clock, with a clutch that is held."""
    return lambda cfg, open_arm=None: WatchedLeader(cfg, clock, open_arm)


@pytest.fixture
def feetech() -> Iterator[Servos]:
    """Eight STS3215, ids 1 to 8."""
    pytest.importorskip("scservo_sdk", reason='pip install "armflow[leader]"')
    from lerobot.motors.feetech.tables import MODEL_CONTROL_TABLE, MODEL_NUMBER_TABLE

    number = MODEL_NUMBER_TABLE["sts3215"]
    servos = Servos(FeetechPackets(), MODEL_CONTROL_TABLE["sts3215"], dict.fromkeys(range(1, 9), number))
    yield servos
    servos.close()


@pytest.fixture
def dynamixel() -> Iterator[Servos]:
    """Six XL330-M077, ids 1 to 6."""
    sdk = pytest.importorskip("dynamixel_sdk", reason='pip install "armflow[leader]"')
    from lerobot.motors.dynamixel.tables import MODEL_CONTROL_TABLE, MODEL_NUMBER_TABLE

    packets = DynamixelPackets(sdk.PacketHandler(2.0).updateCRC)
    number = MODEL_NUMBER_TABLE["xl330-m077"]
    servos = Servos(packets, MODEL_CONTROL_TABLE["xl330-m077"], dict.fromkeys(range(1, 7), number))
    yield servos
    servos.close()
