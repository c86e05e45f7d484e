"""Results of trials, one JSON line each, on disk before the next trial counts.

The first line names the plan. A line is complete when it ends in a newline: what an interruption left behind is cut.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..robot.errors import ConfigError, DataError
from .trials import Trial, TrialOutcome, TrialPlan, TrialResult

RESULTS_FILE = "results.jsonl"


class Journal:
    """An open results file; `done` holds what it has, in order of completion."""

    def __init__(self, file: BinaryIO, plan: TrialPlan, done: list[TrialResult]) -> None:
        self._file, self._plan, self.done = file, plan, done

    @property
    def remaining(self) -> tuple[Trial, ...]:
        """Trials of the plan without a result, in the plan's order."""
        finished = {result.trial.id for result in self.done}
        return tuple(trial for trial in self._plan.trials if trial.id not in finished)

    def append(self, result: TrialResult) -> None:
        """Durable when it returns."""
        _append_line(self._file, asdict(result))
        self.done.append(result)


@contextmanager
def open_journal(folder: Path, plan: TrialPlan) -> Iterator[Journal]:
    """Open or start the results of a plan for appending, by one process at a time.

    Raises DataError if the file belongs to another plan or is damaged, ConfigError if another process has it open.
    """
    path = folder / RESULTS_FILE
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{path}: another process is running these trials; wait for it or stop it") from error
        file.seek(0)
        content = file.read()
        complete = content[: content.rfind(b"\n") + 1]
        file.truncate(len(complete))
        if not complete:
            _append_line(file, {"plan_sha256": plan.sha256})
        done = _parse(path, complete, plan) if complete else []
        yield Journal(file, plan, done)


def read_results(folder: Path, plan: TrialPlan) -> list[TrialResult]:
    """Finished trials, in order of completion; none before the first. Raises DataError as `open_journal` does."""
    path = folder / RESULTS_FILE
    content = path.read_bytes() if path.exists() else b""
    complete = content[: content.rfind(b"\n") + 1]
    return _parse(path, complete, plan) if complete else []


def _parse(path: Path, content: bytes, plan: TrialPlan) -> list[TrialResult]:
    header, *lines = content.decode().splitlines()
    if _load(path, 1, header).get("plan_sha256") != plan.sha256:
        raise DataError(
            f"{path} holds results of another plan than the one beside it (sha256 {plan.sha256[:12]}): "
            f"restore that plan, or run this one in an empty folder"
        )
    results = [_result(path, i, line, plan) for i, line in enumerate(lines, start=2)]
    if len({result.trial.id for result in results}) < len(results):
        raise DataError(f"{path} holds a trial twice")
    return results


def _result(path: Path, number: int, line: str, plan: TrialPlan) -> TrialResult:
    content = _load(path, number, line)
    try:
        result = TrialResult(Trial(**content["trial"]), TrialOutcome(**content["outcome"]), content["video"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}, line {number} is not the result of a trial: {error!r}") from error
    if plan.by_id.get(result.trial.id) != result.trial:
        raise DataError(f"{path}, line {number}: trial {result.trial.id} is not the one in the plan")
    return result


def _load(path: Path, number: int, line: str) -> dict:
    try:
        content = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {number} is not JSON ({error}): restore the file") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}, line {number} must be a JSON object")
    return content


def _append_line(file: BinaryIO, content: dict) -> None:
    line = json.dumps(content, separators=(",", ":"), default=np.generic.item)  # predicates return numpy scalars
    file.write(line.encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())
