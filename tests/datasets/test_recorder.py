import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from armflow.datasets.episodes import open_dataset
from armflow.datasets.labels import EpisodeLabel
from armflow.datasets.recorder import CommitProcess, Recorder, RecorderCfg
from armflow.datasets.recovery import unfinished
from armflow.datasets.schema import Schema
from armflow.datasets.synthetic import SyntheticCfg, synthetic_schema
from armflow.robot.control import Step
from armflow.robot.errors import DataError, SchemaMismatch

SUCCESS = EpisodeLabel("success", terminated=True)
Steps = Callable[[int, int], list[Step]]


@pytest.mark.slow
def test_a_session_records_while_another_process_commits(spool: Path, root: Path, schema: Schema, steps: Steps) -> None:
    with Recorder(RecorderCfg(spool, root), schema, rig_hash="r1") as recorder:
        for seed in (0, 1):
            recorder.start("stack the bowls", seed=seed)
            for step in steps(6, seed):
                recorder.add(step)
            recorder.save(SUCCESS)
        recorder.start("a mistake")
        recorder.add(steps(1, 0)[0])
        recorder.discard("wrong object")
        recorder.start("cut off")
        recorder.add(steps(1, 0)[0])
    dataset = open_dataset(root)
    assert [(e.label.seed, e.label.rig_hash) for e in dataset.episodes if e.label] == [(0, "r1"), (1, "r1")]
    assert len(list(spool.glob("*.discarded.h5"))) == 1
    assert len(unfinished(spool)) == 1


def test_every_episode_needs_a_label_before_the_next(spool: Path, root: Path, schema: Schema, steps: Steps) -> None:
    recorder = Recorder(RecorderCfg(spool, root), schema)  # not entered: nothing commits
    with pytest.raises(DataError, match="call start first"):
        recorder.add(steps(1, 0)[0])
    recorder.start("t")
    with pytest.raises(DataError, match="no label yet"):
        recorder.start("t")
    recorder.abort("enough")
    recorder.start("t")
    recorder.abort("enough")


def test_a_dataset_of_another_rig_is_refused_before_recording(dataset: Path, spool: Path) -> None:
    with pytest.raises(SchemaMismatch, match="camera front"):
        Recorder(RecorderCfg(spool, dataset), synthetic_schema(SyntheticCfg(cameras=("head",))))


@pytest.mark.slow
def test_the_committing_process_outlives_a_killed_session_and_finishes(
    record: Callable[..., Path], spool: Path, root: Path
) -> None:
    record(6, 0)
    session = (
        "import os, sys; from pathlib import Path; from armflow.datasets.recorder import CommitProcess;"
        "CommitProcess(Path(sys.argv[1]), Path(sys.argv[2])); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", session, spool, root], check=False)
    for _ in range(300):
        if (root / "meta/stats.json").exists():
            break
        time.sleep(0.1)
    assert len(open_dataset(root).episodes) == 1


@pytest.mark.slow
def test_a_failure_to_commit_reaches_the_session(record: Callable[..., Path], spool: Path, tmp_path: Path) -> None:
    record(6, 0)
    (tmp_path / "dataset/meta").mkdir(parents=True)
    (tmp_path / "dataset/meta/info.json").write_text('{"codebase_version": "v2.1"}')
    process = CommitProcess(spool, tmp_path / "dataset")
    with pytest.raises(DataError, match=r"committing stopped: DataError: .*LeRobot format v2.1(.|\n)*kept in"):
        process.stop()
    with pytest.raises(DataError, match="committing stopped"):
        process.check()
