"""`armflow bench record`: does recording keep its rate and lose nothing, and how does stock LeRobot do on the same cell?"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..robot.errors import DataError
from .bench_cell import Source, bench_rig
from .bench_recorders import Figures, Job, Who
from .bench_stalls import Span, StallWatch, quantile_outside

MODULE = "armflow.evaluation.bench_recorders"
NAMES: dict[Who, str] = {
    "armflow": "armflow",
    "lerobot": "lerobot-record",
    "lerobot-streaming": "lerobot-record, streaming",
}
MEGA = 1e6
PERIOD_TARGET_S, NEXT_TARGET_S = 0.005, 1.0


@dataclass(frozen=True)
class Row:
    """One figure of the table."""

    name: str
    field: str
    factor: float = 1.0
    unit: str = ""
    digits: int = 0
    compared: bool = True

    def text(self, figures: Figures) -> str:
        return f"{getattr(figures, self.field) * self.factor:,.{self.digits}f} {self.unit}".strip()

    def ratio(self, ours: Figures, theirs: Figures) -> str:
        a, b = getattr(ours, self.field), getattr(theirs, self.field)
        return f"{b / a:.2g} x" if self.compared and a and b else ""


ROWS = (
    Row("frames expected", "expected", compared=False),
    Row("frames lost", "lost", compared=False),
    Row("cameras delivered", "camera_hz", unit="Hz", digits=1, compared=False),
    Row("camera frames read twice", "repeated", compared=False),
    Row("camera frames not read", "unread", compared=False),
    Row("period error, median", "period_error_p50_s", 1e3, "ms", 2),
    Row("period error, p99", "period_error_p99_s", 1e3, "ms", 2),
    Row("period error, p99.9", "period_error_p999_s", 1e3, "ms", 2),
    Row("period error, max", "period_error_max_s", 1e3, "ms", 2),
    Row("save to next episode", "next_episode_s", 1.0, "s", 3),
    Row("last save to complete dataset", "finished_s", 1.0, "s", 1),
    Row("on the disk at save: spool, images", "spool_bytes", 1 / MEGA, "MB"),
    Row("dataset", "dataset_bytes", 1 / MEGA, "MB"),
    Row("CPU of the recorder", "cpu_s", 1.0, "s", 1),
    Row("peak memory of the recorder", "peak_memory_bytes", 1 / MEGA, "MB"),
)


def record(
    seconds: float = 120.0,
    episodes: int = 2,
    source: Source = "twin",
    against: Literal["default", "streaming", "nothing"] = "default",
    width: int = 640,
    height: int = 480,
    out: Path = Path("runs/bench-record"),
) -> None:
    """Record two RGB-D cameras at 30 Hz, with armflow and with stock LeRobot, one after the other.

    A process of the highest priority that only sleeps runs beside each: when that is late, the machine let nobody run.

    Args:
        seconds: Recording time of each, in all episodes together, s.
        episodes: How many episodes that is; from the second on, the one before is being committed meanwhile.
        source: twin renders in real time, in a process of its own; fake shows the same images again and again.
        against: Stock LeRobot with its defaults or with streaming encoding; nothing leaves it out.
        width: Of the images, px.
        height: Of the images, px.
        out: Folder of record.json with all figures; recordings are kept beside it only if something goes wrong.
    """
    whom: dict[str, tuple[Who, ...]] = {
        "default": ("armflow", "lerobot"),
        "streaming": ("armflow", "lerobot-streaming"),
        "nothing": ("armflow",),
    }
    out.mkdir(parents=True, exist_ok=True)
    results: dict[Who, Figures] = {}
    stalls: dict[Who, list[Span]] = {}
    for who in whom[against]:
        folder = Path(tempfile.mkdtemp(prefix=f"{who}-", dir=out))
        results[who], stalls[who] = run(Job(who, source, folder, seconds / episodes, episodes, width, height))
        shutil.rmtree(folder)
    report = {
        "source": source,
        "seconds": seconds,
        "episodes": episodes,
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg(),
        "size": [width, height],
        "stalls": stalls,
        "figures": {who: asdict(figures) | {"lost": figures.lost} for who, figures in results.items()},
    }
    (out / "record.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    Console().print(table(results, stalls, title=f"Recording two {width}x{height} RGB-D cameras at 30 Hz, {source}"))
    Console().print(verdict(results["armflow"]))


def run(job: Job) -> tuple[Figures, list[Span]]:
    """Do the job in a process of its own, with a progress bar; returns how it went, and when the machine stood still
    meanwhile. Raises DataError if it fails; its log says why."""
    hz = bench_rig(job.width, job.height).control_hz
    expected = round(job.episode_s * hz) * job.episodes
    text = json.dumps(asdict(job) | {"out": str(job.out)})
    log = job.out / "log.txt"
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with (
        log.open("w") as errors,
        Progress(*columns) as bar,
        StallWatch() as watch,
        subprocess.Popen(
            [sys.executable, "-m", MODULE, text], stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        task = bar.add_task(NAMES[job.who], total=expected)
        assert process.stdout is not None
        for line in process.stdout:
            message = json.loads(line)
            if "figures" in message:
                return Figures(**message["figures"]), watch.end()
            bar.update(task, description=f"{NAMES[job.who]}: {message['stage']}", completed=message["done"] or None)
    raise DataError(f"{NAMES[job.who]} ended without a result; {log} says why")


def table(results: dict[Who, Figures], stalls: dict[Who, list[Span]], *, title: str) -> Table:
    found = Table(title=title)
    found.add_column("figure")
    for who in results:
        found.add_column(NAMES[who], justify="right")
    others: list[Who] = [who for who in results if who != "armflow"]
    if others:
        found.add_column("theirs / ours", justify="right")
    for row in ROWS:
        ratios = [row.ratio(results["armflow"], results[who]) for who in others]
        found.add_row(row.name, *(row.text(figures) for figures in results.values()), *ratios)
        if row.field == "period_error_max_s":
            found.add_row("machine stood still, commit included", *(_told(stalls[who]) for who in results))
            without = {who: outside(figures, stalls[who]) for who, figures in results.items()}
            found.add_row("period error, p99.9, but for that", *(f"{1e3 * error:.2f} ms" for error in without.values()))
    return found


def outside(figures: Figures, stalls: Sequence[Span]) -> float:
    """p99.9 of the period error, s, without the periods in which the machine stood still."""
    return quantile_outside(0.999, figures.expected, figures.worst_periods, stalls)


def _told(stalls: Sequence[Span]) -> str:
    return f"{len(stalls)} x, {1e3 * max((b - a for a, b in stalls), default=0.0):.0f} ms at most"


def verdict(ours: Figures) -> str:
    """Whether the targets are met, in words."""
    targets = {
        "no frame lost": ours.lost == 0,
        f"p99.9 of the period error within {1e3 * PERIOD_TARGET_S:.0f} ms": ours.period_error_p999_s <= PERIOD_TARGET_S,
        f"next episode within {NEXT_TARGET_S:.0f} s": ours.next_episode_s <= NEXT_TARGET_S,
    }
    return "\n".join(f"{'met' if met else 'MISSED'}: {name}" for name, met in targets.items())
