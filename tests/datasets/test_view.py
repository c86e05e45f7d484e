from collections.abc import Callable
from pathlib import Path

import pytest
from armflow.datasets.schema import Schema
from armflow.datasets.view import RerunSink, open_recording, view
from armflow.robot.control import Step
from armflow.robot.errors import DataError

Steps = Callable[[int, int], list[Step]]


def test_a_recorded_episode_can_be_saved_for_rerun(dataset: Path, tmp_path: Path) -> None:
    view(dataset, 1, save=tmp_path / "out" / "episode.rrd")
    content = (tmp_path / "out" / "episode.rrd").read_bytes()
    assert content.startswith(b"RRF")
    assert b"cameras/front/depth" in content or len(content) > 10_000


def test_live_steps_reach_a_rerun_recording(schema: Schema, steps: Steps, tmp_path: Path) -> None:
    recording = open_recording("live", schema=schema, save=tmp_path / "live.rrd")
    sink = RerunSink(recording, schema)
    for step in steps(5, 0):
        sink.add(step)
    sink.abort("enough")
    recording.flush()
    assert (tmp_path / "live.rrd").stat().st_size > 10_000


def test_an_episode_that_does_not_exist_is_an_error(dataset: Path) -> None:
    with pytest.raises(DataError, match="no episode 3; it has 0 to 2"):
        view(dataset, 3, save=Path("never.rrd"))
