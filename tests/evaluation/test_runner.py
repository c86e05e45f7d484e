"""An interruption costs one trial, a re-run resumes exactly, and the results stay blind."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from armflow.evaluation.fake import FakeTrials
from armflow.evaluation.journal import RESULTS_FILE, open_journal, read_results
from armflow.evaluation.registration import KEY_FILE, Registration, TrialRequest, register
from armflow.evaluation.runner import RunTrial, WorkerDied, run_trials
from armflow.evaluation.trials import TrialOutcome, TrialResult
from armflow.robot.errors import ConfigError, DataError
from rich.console import Console

QUIET = Console(quiet=True)


def by_id(results: list[TrialResult]) -> list[TrialResult]:
    return sorted(results, key=lambda result: result.trial.id)


def failing_after(n: int, run_trial: RunTrial) -> tuple[RunTrial, Callable[[], int]]:
    """A callable that works `n` times, and how often it was called."""
    calls = 0

    def run(policy: str, task: str, seed: int, video: Path | None) -> TrialOutcome:
        nonlocal calls
        calls += 1
        if calls > n:
            raise RuntimeError("cable unplugged")
        return run_trial(policy, task, seed, video)

    return run, lambda: calls


def test_trials_run_in_the_planned_order(folder: Path, registration: Registration, fake: FakeTrials):
    results = run_trials(folder, registration, fake, console=QUIET)
    assert [result.trial for result in results] == list(registration.plan.trials)
    assert read_results(folder, registration.plan) == results


def test_resuming_after_a_failure_repeats_nothing(folder: Path, registration: Registration, fake: FakeTrials):
    broken, _ = failing_after(10, fake)
    with pytest.raises(RuntimeError, match="cable unplugged") as caught:
        run_trials(folder, registration, broken, console=QUIET)
    assert "trial 0010" in caught.value.__notes__[0]
    assert len(read_results(folder, registration.plan)) == 10

    working, calls = failing_after(10_000, fake)
    resumed = run_trials(folder, registration, working, console=QUIET)
    names = {code: policy.name for code, policy in registration.key.policies.items()}
    uninterrupted = [fake(names[t.code], t.task, t.seed, None) for t in registration.plan.trials]
    assert calls() == len(registration.plan.trials) - 10
    assert [result.outcome for result in resumed] == uninterrupted

    never, _ = failing_after(0, fake)
    assert run_trials(folder, registration, never, console=QUIET) == resumed


@pytest.mark.parametrize("torn", [b'{"trial":{"id":"00', b"{", b"\xff\xfe"])
def test_a_line_torn_by_a_power_cut_is_dropped(folder: Path, registration: Registration, fake: FakeTrials, torn: bytes):
    with pytest.raises(RuntimeError):
        run_trials(folder, registration, failing_after(5, fake)[0], console=QUIET)
    with (folder / RESULTS_FILE).open("ab") as file:
        file.write(torn)
    assert len(read_results(folder, registration.plan)) == 5
    assert len(run_trials(folder, registration, fake, console=QUIET)) == len(registration.plan.trials)


def test_results_of_another_plan_are_refused(
    folder: Path, registration: Registration, fake: FakeTrials, request_12: TrialRequest, tmp_path: Path
):
    run_trials(folder, registration, fake, console=QUIET)
    other = register(tmp_path / "other", request_12, np.random.default_rng(1))
    with pytest.raises(DataError, match="another plan"):
        run_trials(folder, other, fake, console=QUIET)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines, lines[-1]], "twice"),
        (lambda lines: [lines[0], "oops", *lines[1:]], "line 2 is not JSON"),
        (lambda lines: [*lines, '{"trial": {}}'], "not the result of a trial"),
        (lambda lines: [*lines[:-1], lines[-1].replace('"seed":', '"seed":7')], "not the one in the plan"),
    ],
)
def test_edited_results_are_refused(
    folder: Path,
    registration: Registration,
    fake: FakeTrials,
    change: Callable[[list[str]], list[str]],
    message: str,
):
    run_trials(folder, registration, fake, console=QUIET)
    lines = (folder / RESULTS_FILE).read_text().splitlines()
    (folder / RESULTS_FILE).write_text("\n".join(change(lines)) + "\n")
    with pytest.raises(DataError, match=message):
        read_results(folder, registration.plan)


def test_two_processes_cannot_run_the_same_trials(folder: Path, registration: Registration, fake: FakeTrials):
    with open_journal(folder, registration.plan), pytest.raises(ConfigError, match="another process"):
        run_trials(folder, registration, fake, console=QUIET)


def test_results_name_no_policy_and_need_no_key(folder: Path, registration: Registration, fake: FakeTrials):
    run_trials(folder, registration, fake, console=QUIET)
    (folder / KEY_FILE).unlink()
    assert read_results(folder, registration.plan)
    text = (folder / RESULTS_FILE).read_text()
    assert not any(name in text for name in fake.rates)


def test_the_first_seeds_are_filmed_for_every_policy(folder: Path, registration: Registration, fake: FakeTrials):
    results = run_trials(folder, registration, fake, videos_per_task=1, console=QUIET)
    filmed = {(r.trial.task, r.trial.seed, r.trial.code) for r in results if r.video}
    codes = registration.key.policies
    assert filmed == {
        (task, seed, code) for task, seed in (("pick_peach", 1000), ("stack_bowls", 5000)) for code in codes
    }
    assert all((folder / r.video).exists() for r in results if r.video)


def test_a_video_that_was_not_written_is_an_error(folder: Path, registration: Registration, fake: FakeTrials):
    def without_camera(policy: str, task: str, seed: int, video: Path | None) -> TrialOutcome:
        return fake(policy, task, seed, None)

    with pytest.raises(DataError, match="asked for but not written"):
        run_trials(folder, registration, without_camera, videos_per_task=1, console=QUIET)


def test_numpy_outcomes_are_saved(folder: Path, registration: Registration, fake: FakeTrials):
    def run(policy: str, task: str, seed: int, video: Path | None) -> TrialOutcome:
        return replace(fake(policy, task, seed, None), success=np.True_, steps=np.int64(3), duration_s=np.float32(2))

    run_trials(folder, registration, run, console=QUIET)
    outcome = read_results(folder, registration.plan)[0].outcome
    assert outcome.success is True and outcome.steps == 3 and outcome.duration_s == 2


def test_more_milestones_than_there_are_is_an_error():
    with pytest.raises(DataError, match="0..total"):
        TrialOutcome(True, "success", True, 5, 4, 1.0, 10, 0)


def test_workers_agree_with_one_process(folder: Path, registration: Registration, fake: FakeTrials, tmp_path: Path):
    parallel = run_trials(folder, registration, fake, workers=2, console=QUIET)
    alone = tmp_path / "alone"
    alone.mkdir()
    assert by_id(parallel) == run_trials(alone, registration, fake, console=QUIET)


def test_a_failing_worker_keeps_what_is_finished(folder: Path, registration: Registration, fake: FakeTrials):
    without_base = FakeTrials({name: rate for name, rate in fake.rates.items() if name != "base"})
    with pytest.raises(ConfigError, match="no success rate for policy 'base'"):
        run_trials(folder, registration, without_base, workers=2, console=QUIET)
    kept = read_results(folder, registration.plan)
    resumed = run_trials(folder, registration, fake, workers=2, console=QUIET)
    assert resumed[: len(kept)] == kept and len(resumed) == len(registration.plan.trials)


def finished_lines(folder: Path) -> int:
    results = folder / RESULTS_FILE
    return results.read_bytes().count(b"\n") - 1 if results.exists() else 0


def test_a_killed_worker_is_reported_and_costs_what_was_under_way(
    folder: Path, registration: Registration, fake: FakeTrials
):
    def kill_one() -> None:
        while finished_lines(folder) < 4:
            time.sleep(0.01)
        active_children()[0].kill()

    killer = Thread(target=kill_one)
    killer.start()
    with pytest.raises(WorkerDied, match="run again"):
        run_trials(folder, registration, replace(fake, seconds=0.1), workers=2, console=QUIET)
    killer.join()
    kept = read_results(folder, registration.plan)
    assert 4 <= len(kept) < len(registration.plan.trials)
    assert run_trials(folder, registration, fake, console=QUIET)[: len(kept)] == kept


RUN_SLOWLY = """
import sys
from pathlib import Path
from armflow.evaluation.fake import FakeTrials
from armflow.evaluation.registration import load_registration
from armflow.evaluation.runner import run_trials

folder = Path(sys.argv[1])
run_trials(folder, load_registration(folder), FakeTrials({"base": 0.1, "sft": 0.45, "q-vgm": 0.8}, seconds=0.03))
"""


def test_sigkill_costs_at_most_the_trial_under_way(folder: Path, registration: Registration):
    process = subprocess.Popen([sys.executable, "-c", RUN_SLOWLY, str(folder)], stdout=subprocess.DEVNULL)
    while finished_lines(folder) < 4:
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    kept = read_results(folder, registration.plan)
    assert [result.trial for result in kept] == list(registration.plan.trials[: len(kept)]) and len(kept) >= 4
    header = (folder / RESULTS_FILE).read_text().splitlines()[0]
    assert json.loads(header) == {"plan_sha256": registration.plan.sha256}
