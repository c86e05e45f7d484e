"""Running the trials of a plan: one process on metal, several in the twin, and exactly where it stopped on a re-run."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..robot.errors import ArmflowError, DataError
from .journal import Journal, open_journal
from .registration import Registration
from .trials import Trial, TrialOutcome, TrialPlan, TrialResult

VIDEO_FOLDER = "videos"


class RunTrial(Protocol):
    """Runs one policy once and judges it. With several workers it is called in other processes, so it must be a
    module-level function (or a `functools.partial` of one), and should keep loaded policies between calls."""

    def __call__(self, policy: str, task: str, seed: int, video: Path | None) -> TrialOutcome:
        """`video`: where to write an H.264 mp4, or None for no video."""
        ...


Call = tuple[RunTrial, Trial, str, Path, str | None]
"""Arguments of `_run`: the callable, the trial, the policy's name, the folder, the video's path within it."""


class WorkerDied(ArmflowError):
    """A worker process ended without an answer."""


def run_trials(
    folder: Path,
    registration: Registration,
    run_trial: RunTrial,
    *,
    workers: int = 1,
    videos_per_task: int = 0,
    console: Console | None = None,
) -> list[TrialResult]:
    """Run what the plan still lacks and return all results. Every finished trial is on disk at once.

    `videos_per_task`: the first so many seeds of each task are filmed, for every policy.
    Raises whatever a trial raises, with the trial named in a note; WorkerDied if a worker is killed.
    """
    plan, policies = registration.plan, registration.key.policies
    filmed = {(task, seed) for task in plan.tasks for seed in plan.seeds(task)[:videos_per_task]}
    (folder / VIDEO_FOLDER).mkdir(exist_ok=True)

    def call(trial: Trial) -> Call:
        video = f"{VIDEO_FOLDER}/{trial.id}.mp4" if (trial.task, trial.seed) in filmed else None
        return run_trial, trial, policies[trial.code].name, folder, video

    with open_journal(folder, plan) as journal, _progress(plan, journal, console) as advance:

        def record(result: TrialResult) -> None:
            journal.append(result)
            advance()

        calls = [call(trial) for trial in journal.remaining]
        if workers > 1:
            _run_in_workers(calls, workers, record)
        else:
            for args in calls:
                record(_run(*args))
        return list(journal.done)


def _run(run_trial: RunTrial, trial: Trial, policy: str, folder: Path, video: str | None) -> TrialResult:
    try:
        outcome = run_trial(policy, trial.task, trial.seed, folder / video if video else None)
    except BaseException as error:
        error.add_note(f"in trial {trial.id} ({trial.task}, seed {trial.seed}); run again to resume with it")
        raise
    if video and not (folder / video).exists():
        raise DataError(f"trial {trial.id}: the video {folder / video} was asked for but not written")
    return TrialResult(trial, outcome, video)


def _run_in_workers(calls: list[Call], workers: int, record: Callable[[TrialResult], None]) -> None:
    """Record results as they complete. After an error or Ctrl-C, trials under way are finished and recorded too."""
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _prepare_worker, (workers,))
    waiting = {pool.submit(_run, *args) for args in calls}
    try:
        for future in as_completed(tuple(waiting)):
            waiting.discard(future)
            record(future.result())
    except BrokenProcessPool as error:
        raise WorkerDied(
            "a worker process died (out of memory?); finished trials are kept: run again, perhaps with fewer workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        for future in waiting:
            if not future.cancelled() and future.exception() is None:
                record(future.result())


def _prepare_worker(workers: int) -> None:
    """Leave Ctrl-C to the parent, and share the cores: torch would start a thread per core in every worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threads = max(1, (os.cpu_count() or 1) // workers)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


@contextmanager
def _progress(plan: TrialPlan, journal: Journal, console: Console | None) -> Iterator[Callable[[], None]]:
    """One bar for all trials. No success rates in it: a look at the score while trials run invites stopping early."""
    columns = (TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("trials", total=len(plan.trials), completed=len(journal.done))
        yield lambda: progress.advance(bar)
