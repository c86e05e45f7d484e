"""From spool to dataset: takes finished recordings, oldest first, and appends each to the LeRobot dataset.

Runs as a process of its own (`python -m armflow.datasets.commit SPOOL DATASET --follow`), so that the next episode can
start at once. It may be killed at any point and started again: nothing is lost, nothing appears twice.
"""

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..robot.errors import ArmflowError, CorruptEpisode, DataError
from .appender import CommitCfg, DatasetAppender, DatasetBusy
from .pooled import write_pooled_stats
from .spool import free_bytes
from .spool_file import DISCARDED_SUFFIX, PART_SUFFIX, SAVED_SUFFIX, read_spool

REJECTED_SUFFIX = ".rejected.h5"
POLL_S = 0.1
RESERVE_BYTES = 16_000_000  # for the tables and the journal
STATS_EVERY_S = 30.0  # while following: reading all rows again after every episode would grow with the square


@dataclass(frozen=True)
class CommitReport:
    """What a run did. Rejected recordings stay in the spool as `*.rejected.h5`, the reason beside them."""

    committed: int
    rejected: tuple[tuple[Path, str], ...]


def commit_spool(
    spool_dir: Path,
    dataset_root: Path,
    *,
    follow: bool = False,
    stop: Callable[[], bool] = lambda: False,
    progress: bool = False,
    cfg: CommitCfg | None = None,
) -> CommitReport:
    """Append every finished recording of `spool_dir` to the dataset, made if needed; a recording is then removed.

    With `follow`, waits for more until `stop()` is true and then takes what is still there; if another process commits,
    such as one that a killed session has left with work to do, it is waited for, too. Raises SchemaMismatch if a
    recording has another schema than the dataset, and DataError if the disk is full or another process commits; the
    recordings stay. A damaged recording is set aside and the others go on.
    """
    if not spool_dir.is_dir():
        raise DataError(f"{spool_dir}: no such folder; expected the folder that episodes are recorded into")
    committed, rejected = 0, []
    with _open(dataset_root, cfg, lambda: follow and not stop()) as dataset, _bar(progress) as advance:
        stats_at, stale = time.monotonic(), False
        while True:
            stopping = not follow or stop()  # asked before looking: what was saved before stopping is still taken
            pending = finished(spool_dir)
            for done, path in enumerate(pending):
                try:
                    _append(dataset, path)
                    committed += 1
                except CorruptEpisode as error:
                    rejected.append((_set_aside(path, str(error)), str(error)))
                advance(committed, len(pending) - done - 1)
            stale = stale or bool(pending)
            if stale and (stopping or time.monotonic() - stats_at > STATS_EVERY_S) and dataset.total_episodes:
                write_pooled_stats(dataset_root)
                stats_at, stale = time.monotonic(), False
            if stopping:
                return CommitReport(committed, tuple(rejected))
            if not pending:
                time.sleep(POLL_S)


def finished(spool_dir: Path) -> list[Path]:
    """Recordings that wait to be committed, oldest first."""
    others = (PART_SUFFIX, DISCARDED_SUFFIX, REJECTED_SUFFIX)
    return sorted(path for path in spool_dir.glob(f"*{SAVED_SUFFIX}") if not path.name.endswith(others))


def _open(dataset_root: Path, cfg: CommitCfg | None, waits: Callable[[], bool]) -> DatasetAppender:
    while True:
        try:
            return DatasetAppender(dataset_root, cfg)
        except DatasetBusy:
            if not waits():
                raise
        time.sleep(POLL_S)


def _append(dataset: DatasetAppender, path: Path) -> None:
    needed = path.stat().st_size + RESERVE_BYTES  # what is committed is never larger than what was recorded
    if (free := free_bytes(dataset.root)) < needed:
        raise DataError(
            f"{dataset.root}: the disk is full: {free / 1e6:.0f} MB free, up to {needed / 1e6:.0f} MB needed for {path}. "
            "The recording is kept; free some space and commit again"
        )
    try:
        dataset.append(read_spool(path))
    except OSError as error:
        raise DataError(f"{dataset.root}: cannot write: {error}. The recording {path} is kept; commit again") from error
    path.unlink()


def _set_aside(path: Path, reason: str) -> Path:
    aside = path.with_name(path.name.removesuffix(SAVED_SUFFIX) + REJECTED_SUFFIX)
    aside.with_suffix(".txt").write_text(reason + "\n", encoding="utf-8")
    os.replace(path, aside)
    return aside


@contextmanager
def _bar(show: bool) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn("episodes committed"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, disable=not show) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, waiting: bar.update(task, completed=done, total=done + waiting)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spool", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument(
        "--follow", action="store_true", help="wait for more episodes until a line or the end of standard input"
    )
    parser.add_argument(
        "--no-sync", action="store_true", help="do not wait for the disk: survives a kill, not a power cut"
    )
    args = parser.parse_args()

    stopped = threading.Event()
    if args.follow:
        os.nice(10)  # the control loop has priority
        # A line from whoever started us, or the end of the pipe when that process dies.
        threading.Thread(target=lambda: (sys.stdin.readline(), stopped.set()), daemon=True).start()
    try:
        report = commit_spool(
            args.spool,
            args.dataset,
            follow=args.follow,
            stop=stopped.is_set,
            progress=sys.stderr.isatty(),
            cfg=CommitCfg(sync=not args.no_sync),
        )
    except ArmflowError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; what is not committed yet stays in the spool")
    for path, reason in report.rejected:
        sys.stderr.write(f"rejected {path}: {reason}\n")


if __name__ == "__main__":
    main()
