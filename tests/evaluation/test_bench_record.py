"""The recording benchmark measures what it says; how fast this machine is, is not tested."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from armflow.evaluation import bench_record
from armflow.evaluation.bench_cell import CellProcess
from armflow.evaluation.bench_record import record, run, table, verdict
from armflow.evaluation.bench_recorders import Figures, Job, Who
from armflow.evaluation.bench_stalls import Span
from armflow.robot.errors import DataError
from armflow.robot.types import ArmCommand
from rich.console import Console

GOOD = Figures(
    expected=60, recorded=60, video_frames=60, camera_hz=30.0, repeated=0, unread=0, period_error_p50_s=1e-4, period_error_p99_s=1e-3,
    period_error_p999_s=2e-3, period_error_max_s=3e-3, worst_periods=[(1.0, 1.03, 3e-3)], next_episode_s=0.1, finished_s=5.0, spool_bytes=10**8,
    dataset_bytes=10**7, cpu_s=10.0, peak_memory_bytes=10**8,
)  # fmt: skip
STALLS: dict[Who, list[Span]] = {"armflow": [], "lerobot": [(0.9, 0.928)]}


def test_a_missing_row_and_a_missing_image_are_both_a_lost_frame() -> None:
    assert GOOD.lost == 0
    assert replace(GOOD, recorded=58, video_frames=58).lost == 2
    assert replace(GOOD, video_frames=59).lost == 1


def test_the_verdict_names_the_target_that_is_missed() -> None:
    assert "MISSED" not in verdict(GOOD)
    assert "MISSED: no frame lost" in verdict(replace(GOOD, recorded=59))
    assert "MISSED: p99.9" in verdict(replace(GOOD, period_error_p999_s=0.006))
    assert "MISSED: next episode" in verdict(replace(GOOD, next_episode_s=1.1))


def test_the_table_says_how_many_times_as_much_the_other_takes() -> None:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table({"armflow": GOOD, "lerobot": replace(GOOD, next_episode_s=3.0)}, STALLS, title="twin"))
    (line,) = [line for line in captured.get().splitlines() if "save to next episode" in line]
    assert all(text in line for text in ("0.100 s", "3.000 s", "30 x"))
    assert "0 x, 0 ms at most" in captured.get() and "1 x, 28 ms at most" in captured.get()


@pytest.mark.slow
@pytest.mark.parametrize("source", ["twin", "fake"])
def test_the_cell_delivers_frames_and_follows_commands(source: bench_record.Source) -> None:
    with CellProcess(source) as cell:
        home = cell.arm.read().q
        target = home + np.array([0.02, 0, 0, 0, 0, 0, 0])
        first = cell.cameras["head"].latest(max_age_s=10.0)
        cell.arm.command(ArmCommand(target, 1.0))
        newest = first
        while newest.frame_number < first.frame_number + 15:
            newest = cell.cameras["head"].latest(max_age_s=10.0)
        assert (newest.rgb.shape, newest.depth_mm.shape) == ((480, 640, 3), (480, 640))
        assert newest.rgb.std() > 10 and newest.t > first.t
        assert abs(cell.arm.read().q[0] - target[0]) < 0.01


@pytest.mark.slow
def test_both_recorders_are_measured_by_the_same_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(seconds=1.0, episodes=2, source="fake", width=64, height=64, out=tmp_path)
    report = json.loads((tmp_path / "record.json").read_text())
    assert list(report["figures"]) == ["armflow", "lerobot"]
    for figures in report["figures"].values():
        assert 0 < figures["recorded"] <= figures["expected"] == 30
        assert figures["video_frames"] == figures["recorded"]
        assert 0 <= figures["period_error_p50_s"] <= figures["period_error_p999_s"] <= figures["period_error_max_s"]
        assert figures["camera_hz"] > 1
        assert min(figures[name] for name in ("next_episode_s", "finished_s", "dataset_bytes", "cpu_s")) > 0
    assert list(tmp_path.iterdir()) == [tmp_path / "record.json"]
    assert "lerobot-record" in capsys.readouterr().out


def test_a_recorder_that_fails_leaves_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_record, "MODULE", "armflow.no_such_module")
    with pytest.raises(DataError, match="ended without a result; .*log.txt says why"):
        run(Job("armflow", "fake", tmp_path, 1.0, 1))
    assert "no_such_module" in (tmp_path / "log.txt").read_text()
