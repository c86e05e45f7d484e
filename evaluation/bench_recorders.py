"""Recording from the shared cell, by armflow or by stock LeRobot, in a process of its own that reports what it took.

`python -m armflow.evaluation.bench_recorders JSON` writes {"stage": ..., "done": ...} lines, then {"figures": ...}.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np

from ..datasets.labels import EpisodeLabel
from ..datasets.layout import read_info
from ..datasets.recorder import Recorder, RecorderCfg
from ..datasets.schema import make_schema
from ..robot.clock import MonotonicClock
from ..robot.control import Decision, LoopCfg, Step, run_episode
from ..robot.realtime import realtime_priority
from ..robot.safety import JointSafety
from ..robot.types import ArmCommand, ControlMode, Floats, Observation
from .bench_cell import CellProcess, Source, cpu_of_children_s
from .bench_stalls import Period

TASK = "put the peach in the bowl"
HALF_A_TICK = 0.5
MAX_AGE_S = 10.0  # of a frame: a twin that renders late on a busy machine is no fault of the recorder's
Who = Literal["armflow", "lerobot", "lerobot-streaming"]


@dataclass(frozen=True)
class Job:
    """What to record, and where."""

    who: Who
    source: Source
    out: Path
    episode_s: float
    episodes: int
    width: int = 640
    height: int = 480


@dataclass(frozen=True)
class Figures:
    """How a recording went. Times in s."""

    expected: int  # frames that the rate asks for
    recorded: int  # rows of the dataset
    video_frames: int  # in the poorest of its videos
    camera_hz: float  # what the slowest camera has delivered while episodes were recorded
    # Loop and cameras have clocks of their own, so that now and then a frame is read twice and another not at all.
    repeated: int
    unread: int
    period_error_p50_s: float  # between two readings of the arm within an episode, from the nominal period
    period_error_p99_s: float
    period_error_p999_s: float
    period_error_max_s: float
    worst_periods: list[Period]  # the hundredth with the largest errors
    next_episode_s: float  # from `save` until the next episode takes frames, the longest
    finished_s: float  # from the end of the last episode until the dataset holds everything
    spool_bytes: int  # on the disk when an episode is saved: HDF5 files, or the images written so far
    dataset_bytes: int
    cpu_s: float  # of the recorder and of what it starts, the cell excepted
    peak_memory_bytes: int  # of the recording process

    @property
    def lost(self) -> int:
        return self.expected - min(self.recorded, self.video_frames)


def sway(t: float, home: Floats) -> Floats:
    """Joint targets of a slow movement from side to side; the speed limit is far away."""
    q = home.copy()
    q[0] += 0.1 * np.sin(0.5 * t)
    return q


def say(**message: object) -> None:
    print(json.dumps(message), flush=True)  # noqa: T201 - to the process that reports


class Sway:
    """CommandSource of `sway`, for a time: what the loop has not recorded by then is lost."""

    def __init__(self, home: Floats, seconds: float) -> None:
        self._home, self._seconds = home, seconds
        self._start: float | None = None

    def wants_frames(self) -> bool:
        return True

    def next(self, obs: Observation) -> Decision | None:
        self._start = obs.t if self._start is None else self._start
        if obs.t - self._start >= self._seconds:
            return None
        return Decision(ArmCommand(sway(obs.t, self._home), 1.0), ControlMode.HUMAN)


class _Counter:
    """StepSink that tells the progress."""

    def __init__(self, before: int) -> None:
        self._count = before

    def add(self, step: Step) -> None:
        self._count += 1
        if self._count % 30 == 0:
            say(stage="recording", done=self._count)

    def abort(self, reason: str) -> None:
        pass


@dataclass
class Marks:
    """When what happened, for `figures`."""

    cell: CellProcess
    cpu_before: float
    reads: list[tuple[int, int]]  # of each episode, first and last + 1 in the arm's read times
    looks: list[tuple[int, int]]  # the same for the cameras
    waits_s: list[float]  # between episodes
    spool_bytes: int = 0
    ended: float = 0.0  # monotonic clock


def record_armflow(job: Job, cell: CellProcess) -> Marks:
    rig, marks = cell.rig, Marks(cell, cpu_s(cell), [], [], [])
    schema = make_schema(cell.arm.spec, [c.spec for c in cell.cameras.values()], rig.control_hz)
    steps = round(job.episode_s * rig.control_hz)
    with Recorder(RecorderCfg(job.out / "spool", job.out / "dataset"), schema, rig_hash=rig.hash) as recorder:
        recorder.start(TASK)
        for episode in range(job.episodes):
            first = len(cell.arm.read_times) + 1  # the safety filter reads the arm once before the first tick
            first_look = cell.looks
            with realtime_priority():
                result = run_episode(
                    arm=cell.arm,
                    cameras=cell.cameras,
                    source=Sway(np.array(rig.arm.home_q), job.episode_s - HALF_A_TICK / rig.control_hz),
                    safety=JointSafety(cell.arm.spec, rig.safety),
                    clock=MonotonicClock(),
                    cfg=LoopCfg(fps=rig.control_hz, max_steps=steps, max_frame_age_s=MAX_AGE_S),
                    sinks=(recorder, _Counter(episode * steps)),
                )
            marks.reads.append((first, len(cell.arm.read_times)))
            marks.looks.append((first_look, cell.looks))
            marks.ended = time.monotonic()
            path = recorder.save(EpisodeLabel("success", terminated=True, loop=result.stats))
            if path.exists():
                marks.spool_bytes += path.stat().st_size
            if episode < job.episodes - 1:
                recorder.start(TASK)
                marks.waits_s.append(time.monotonic() - marks.ended)
        cell.end()  # rendering would only slow down what comes
        say(stage="committing", done=0)
    return marks


def figures(job: Job, marks: Marks) -> Figures:
    """Everything that both recorders are measured by."""
    cell, period = marks.cell, 1.0 / marks.cell.rig.control_hz
    finished_s = time.monotonic() - marks.ended
    reads = [np.array(cell.arm.read_times[a:b]) for a, b in marks.reads]
    starts, ends = np.concatenate([t[:-1] for t in reads]), np.concatenate([t[1:] for t in reads])
    errors = np.abs(ends - starts - period)
    worst = np.argsort(-errors)[: 1 + len(errors) // 100]
    p50, p99, p999 = np.quantile(errors, [0.5, 0.99, 0.999])
    counts = [np.array(camera.counts[a:b]) for camera in cell.cameras.values() for a, b in marks.looks]
    gaps = np.concatenate([np.diff(episode) for episode in counts])
    recorded_s = sum(cell.arm.read_times[b - 1] - cell.arm.read_times[a] for a, b in marks.reads)
    delivered = [sum(c.counts[b - 1] - c.counts[a] for a, b in marks.looks) for c in cell.cameras.values()]
    info = read_info(job.out / "dataset")
    assert info is not None
    return Figures(
        expected=round(job.episode_s * cell.rig.control_hz) * job.episodes,
        recorded=int(info["total_frames"]),
        video_frames=min(video_frames(job.out / "dataset").values()),
        camera_hz=min(delivered) / recorded_s,
        repeated=int((gaps == 0).sum()),
        unread=int((gaps - 1)[gaps > 1].sum()),
        period_error_p50_s=float(p50),
        period_error_p99_s=float(p99),
        period_error_p999_s=float(p999),
        period_error_max_s=float(errors.max()),
        worst_periods=list(zip(starts[worst].tolist(), ends[worst].tolist(), errors[worst].tolist(), strict=True)),
        next_episode_s=max(marks.waits_s, default=0.0),
        finished_s=finished_s,
        spool_bytes=marks.spool_bytes,
        dataset_bytes=folder_bytes(job.out / "dataset"),
        cpu_s=cpu_s(cell) - marks.cpu_before,
        peak_memory_bytes=peak_memory_bytes(),
    )


def video_frames(root: Path) -> dict[str, int]:
    """Frames in the videos of each column."""
    found: dict[str, int] = {}
    for path in sorted((root / "videos").rglob("*.mp4")):
        column = path.relative_to(root / "videos").parts[0]
        with av.open(str(path)) as container:
            found[column] = found.get(column, 0) + sum(packet.size > 0 for packet in container.demux(video=0))
    return found


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def peak_memory_bytes() -> int:
    """Of this process. Not `ru_maxrss`: that begins with what the process that started this one held."""
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def cpu_s(cell: CellProcess) -> float:
    """Of this process and of its children that have ended, the cell excepted."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime + cpu_of_children_s() - cell.cpu_s


def main(arguments: Sequence[str]) -> None:
    values = json.loads(arguments[0])
    job = Job(**(values | {"out": Path(values["out"])}))
    recorder: Callable[[Job, CellProcess], Marks] = record_armflow
    if job.who != "armflow":
        from .bench_stock import record_stock as recorder  # imports LeRobot's recording script: seconds
    say(stage="starting", done=0)
    with CellProcess(job.source, job.width, job.height) as cell:
        result: dict[str, Any] = asdict(figures(job, recorder(job, cell)))
    say(figures=result)


if __name__ == "__main__":
    main(sys.argv[1:])
