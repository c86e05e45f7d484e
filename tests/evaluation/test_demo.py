"""The main job, small: every step of the loop on the real code path, and once more without doing anything twice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from armflow.datasets.labels import newest_labels
from armflow.training import run
from armflow.training.pi05_mini.load import load_policy
from armflow.training.stages.critic import load_gates

pytestmark = pytest.mark.slow


def _demo(out: Path) -> str:
    command = [sys.executable, "-c", "from armflow.cli import main; main()", "demo", "--quick-tour", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.timeout(900)
def test_the_whole_loop_ends_with_a_report_and_is_not_run_twice(tmp_path: Path) -> None:
    printed = _demo(tmp_path)
    assert len(newest_labels(tmp_path / "demos")) == 4
    assert 12 <= len(newest_labels(tmp_path / "rollouts")) <= 16  # a policy of so little training may be stopped
    for stage in ("sft", "rlt", "critic", "qvgm"):
        assert run.read_manifest(tmp_path / stage)["metrics"], stage
    assert load_policy(tmp_path / "qvgm").chunk_size == 16
    results = (tmp_path / "comparison/results.jsonl").read_text().splitlines()
    comparison = json.loads((tmp_path / "comparison/comparison.json").read_text())
    assert comparison["finished"] == 6 * 2 * 4  # policies, tasks, trials
    assert set(comparison["policies"]) == {"base", "SFT", "SFT, no noise", "Q-selection", "Q-guidance", "Q-VGM"}
    assert "report.html" in printed and (tmp_path / "comparison/report.html").stat().st_size > 10_000

    weights = (tmp_path / "qvgm/checkpoint/model.safetensors").stat().st_mtime_ns
    _demo(tmp_path)
    assert (tmp_path / "qvgm/checkpoint/model.safetensors").stat().st_mtime_ns == weights
    assert (tmp_path / "comparison/results.jsonl").read_text().splitlines() == results
    tried = [gate for gate in load_gates(tmp_path / "critic").gates if gate.name == "beats base"]
    assert [gate.numbers["episodes"] for gate in tried] == [2 * 2]  # tasks, trials; asked once
