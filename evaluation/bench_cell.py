"""A cell in a process of its own, seen through shared memory: rendering costs the recording process no more than real
cameras would.

    twin    the twin in real time, its cameras rendered at their rate
    fake    an arm that is where it was told to be, and a few images again and again: for machines that render slowly

`python -m armflow.evaluation.bench_cell SOURCE WIDTH HEIGHT FILE` serves until its standard input ends.
"""

import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

import numpy as np

from ..datasets.synthetic import SyntheticCfg, synthetic_steps
from ..robot import fr3
from ..robot.arm import ArmDriver
from ..robot.camera import Camera
from ..robot.clock import MonotonicClock
from ..robot.errors import DeviceFault, DeviceTimeout, StaleReading
from ..robot.fakes import FakeArm
from ..robot.rig import Rig, load_rig
from ..robot.twin.cell import Cell
from ..robot.twin.tasks import TASKS
from ..robot.types import ArmCommand, ArmState, CameraSpec, RgbdFrame

Source = Literal["twin", "fake"]

SLOTS = 8  # frames, states and commands kept; the newest is copied long before its place is needed again
ARM_HZ = 100.0
START_TIMEOUT_S = 60.0
DOF = fr3.SPEC.dof


def bench_rig(width: int, height: int) -> Rig:
    """Two RGB-D cameras at 30 Hz, recorded at their rate."""
    return replace(load_rig(), control_hz=30.0).with_image_size(width, height)


def _layout(specs: list[CameraSpec]) -> np.dtype[Any]:
    """The shared file: rings of the newest values, and how many there have been of each."""
    ring = lambda name, dtype, shape=(): [(name, dtype, (SLOTS, *shape)), (f"{name}.count", np.int64)]  # noqa: E731
    fields: list[Any] = [*ring("state", np.float64, (3 * DOF + 2,)), *ring("command", np.float64, (DOF + 1,))]
    for spec in specs:
        size = (spec.height, spec.width)
        frame = [("t", np.float64), ("number", np.int64), ("rgb", np.uint8, (*size, 3)), ("depth_mm", np.uint16, size)]
        fields += ring(spec.name, np.dtype(frame))
    return np.dtype(fields)


class _Shared:
    """The shared file, mapped into memory."""

    def __init__(self, path: Path, rig: Rig) -> None:
        self._values = np.memmap(path, _layout([c.spec() for c in rig.cameras]), "r+", shape=(1,))

    def put(self, name: str, fill: Callable[[Any], None]) -> None:
        """Let `fill` write the place of the next value, then count it. One writer per name."""
        count = int(self._values[f"{name}.count"][0])
        fill(self._values[name][0][count % SLOTS : count % SLOTS + 1])
        self._values[f"{name}.count"][0] = count + 1

    def newest(self, name: str) -> tuple[Any, int]:
        """A copy of the newest value, and how many there have been up to it."""
        while True:
            count = self.count(name)
            value = self._values[name][0][(count - 1) % SLOTS].copy()
            if self.count(name) - count < SLOTS - 1:  # else its place has been written to meanwhile
                return value, count

    def count(self, name: str) -> int:
        return int(self._values[f"{name}.count"][0])


class SharedArm:
    """ArmDriver of the cell; keeps the times at which it was read."""

    spec = fr3.SPEC

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self.read_times: list[float] = []  # s, monotonic clock

    def read(self) -> ArmState:
        self.read_times.append(time.monotonic())
        (t, gripper, *joints), _ = self._shared.newest("state")
        q, dq, effort = np.split(np.array(joints), 3)
        return ArmState(t, q, dq, effort, gripper)

    def command(self, cmd: ArmCommand) -> ArmCommand:
        vector = np.append(cmd.q, cmd.gripper)
        self._shared.put("command", lambda place: place.__setitem__(0, vector))
        return ArmCommand(cmd.q.copy(), cmd.gripper)

    def hold(self) -> None:
        (_, gripper, *joints), _ = self._shared.newest("state")
        self.command(ArmCommand(np.array(joints[:DOF]), gripper))


class SharedCamera:
    """Camera of the cell; keeps count of the frames it has handed out."""

    def __init__(self, shared: _Shared, spec: CameraSpec) -> None:
        self.spec = spec
        self._shared = shared
        self.counts: list[int] = []  # of each call: how many frames the cell had delivered

    def latest(self, *, max_age_s: float) -> RgbdFrame:
        value, count = self._shared.newest(self.spec.name)
        frame = RgbdFrame(float(value["t"]), int(value["number"]), value["rgb"], value["depth_mm"])
        if (age := time.monotonic() - frame.t) > max_age_s:
            raise StaleReading(self.spec.name, f"newest frame is {age:.2f} s old, allowed is {max_age_s} s")
        self.counts.append(count)
        return frame


class CellProcess:
    """Starts the cell and waits until it delivers; leaving the context ends it."""

    def __init__(self, source: Source, width: int = 640, height: int = 480) -> None:
        self._source, self.rig = source, bench_rig(width, height)
        self._size = (str(width), str(height))
        self.cpu_s = 0.0  # what it has taken, once it has ended

    def __enter__(self) -> Self:
        self._file = tempfile.NamedTemporaryFile(prefix="armflow-cell-")
        self._file.truncate(_layout([c.spec() for c in self.rig.cameras]).itemsize)
        shared = _Shared(Path(self._file.name), self.rig)
        self.arm = SharedArm(shared)
        self.cameras = {c.name: SharedCamera(shared, c.spec()) for c in self.rig.cameras}
        command = [sys.executable, "-m", __spec__.name, self._source, *self._size, self._file.name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not all(shared.count(name) for name in ("state", *self.cameras)):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__(None, None, None)
                raise DeviceTimeout("cell", f"the {self._source} delivers nothing; its process says why above")
            time.sleep(0.01)
        return self

    @property
    def looks(self) -> int:
        """How often its cameras have been asked, each."""
        return min(len(camera.counts) for camera in self.cameras.values())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        self._file.close()

    def end(self) -> None:
        """Stop delivering; what has been delivered stays. Idempotent."""
        if self._process.returncode is not None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        before = cpu_of_children_s()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.cpu_s = cpu_of_children_s() - before


def cpu_of_children_s() -> float:
    """Of the children that have ended."""
    use = resource.getrusage(resource.RUSAGE_CHILDREN)
    return use.ru_utime + use.ru_stime


def _serve(shared: _Shared, arm: ArmDriver, cameras: Mapping[str, Camera], fps: float, over: threading.Event) -> None:
    clock = MonotonicClock()
    start = clock.now()

    def serve_arm() -> None:
        tick = seen = 0
        while not over.is_set():
            tick = max(tick + 1, int((clock.now() - start) * ARM_HZ))
            over.wait(start + tick / ARM_HZ - clock.now())
            if (count := shared.count("command")) > seen:
                seen = count
                arm.command(ArmCommand.from_vector(shared.newest("command")[0]))
            s = arm.read()
            vector = np.concatenate([[s.t, s.gripper], s.q, s.dq, s.effort])
            shared.put("state", lambda place, vector=vector: place.__setitem__(0, vector))

    thread = threading.Thread(target=serve_arm, name="arm")
    thread.start()
    exposure = 0
    while not over.is_set():
        for name, camera in cameras.items():
            frame = camera.latest(max_age_s=np.inf)
            shared.put(name, lambda place, frame=frame: _store(place, frame))
        exposure = max(exposure + 1, int((clock.now() - start) * fps))
        clock.sleep_until(start + exposure / fps)
        if not thread.is_alive() and not over.is_set():
            raise DeviceFault("cell", "its arm has stopped; the traceback above says why")
    thread.join()


def _store(place: Any, frame: RgbdFrame) -> None:
    place["rgb"][0], place["depth_mm"][0] = frame.rgb, frame.depth_mm
    place["t"][0], place["number"][0] = frame.t, frame.frame_number


class _Film:
    """Camera that shows the same second of made-up images again and again."""

    def __init__(self, spec: CameraSpec) -> None:
        self.spec = spec
        cfg = SyntheticCfg(spec.width, spec.height, round(spec.fps), (spec.name,))
        steps = synthetic_steps(cfg.fps, cfg, np.random.default_rng(0))
        self._frames = [step.obs.frames[spec.name] for step in steps]
        self._start = time.monotonic()

    def latest(self, *, max_age_s: float) -> RgbdFrame:
        number = int((time.monotonic() - self._start) * self.spec.fps)
        t = self._start + number / self.spec.fps
        return replace(self._frames[number % len(self._frames)], t=t, frame_number=number)


def main() -> None:
    source, width, height, path = sys.argv[1:]
    assert source in get_args(Source)
    rig, over = bench_rig(int(width), int(height)), threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    shared = _Shared(Path(path), rig)
    if source == "fake":
        arm = FakeArm(MonotonicClock(), q=np.array(rig.arm.home_q))
        _serve(shared, arm, {c.name: _Film(c.spec()) for c in rig.cameras}, rig.control_hz, over)
    else:
        with Cell(rig, MonotonicClock()) as cell:
            episode = cell.reset(TASKS["pick_peach"], seed=0)
            _serve(shared, episode.arm, episode.cameras, rig.control_hz, over)


if __name__ == "__main__":
    main()
