"""A whole comparison in one folder: plan, key, results, videos, comparison.json and report.html."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from numpy.random import Generator
from rich.console import Console

from .compare import Comparison, compare, save_comparison
from .journal import read_results
from .registration import TrialRequest, load_registration, register
from .report import Extra, write_report
from .runner import RunTrial, run_trials

COMPARISON_FILE, REPORT_FILE = "comparison.json", "report.html"


@dataclass(frozen=True)
class Study:
    comparison: Comparison
    report: Path


def run_study(
    folder: Path,
    request: TrialRequest,
    run_trial: RunTrial,
    *,
    rng: Generator,
    workers: int = 1,
    videos_per_task: int = 2,
    title: str | None = None,
    extras: Sequence[Extra] = (),
    console: Console | None = None,
) -> Study:
    """Register, run what is missing, compare and report. Run again after an interruption to resume.

    `rng` draws codes and orders, once. Raises what `register`, `run_trials` and `write_report` raise.
    """
    registration = register(folder, request, rng)
    run_trials(folder, registration, run_trial, workers=workers, videos_per_task=videos_per_task, console=console)
    return report_study(folder, title=title, extras=extras)


def report_study(
    folder: Path, *, title: str | None = None, extras: Sequence[Extra] = (), reference: str | None = None
) -> Study:
    """Compare and report what the folder holds, finished or not. `reference`: another one, for an exploratory look."""
    registration = load_registration(folder)
    results = read_results(folder, registration.plan)
    comparison = compare(registration, results, reference=reference)
    save_comparison(comparison, folder / COMPARISON_FILE)
    report = folder / REPORT_FILE
    write_report(report, comparison, registration, results, folder=folder, title=title, extras=extras)
    return Study(comparison, report)
