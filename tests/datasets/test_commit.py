"""Committing: each episode once, in order, whatever happens to the process in between."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from armflow.datasets import appender, layout, prove
from armflow.datasets import commit as commit_module
from armflow.datasets.commit import commit_spool, finished
from armflow.datasets.episodes import load_depth_mm, load_episodes, load_images, open_dataset
from armflow.datasets.labels import EpisodeLabel, read_entries
from armflow.datasets.spool import SpoolWriter
from armflow.datasets.spool_file import read_spool
from armflow.datasets.synthetic import SyntheticCfg, synthetic_schema, synthetic_steps
from armflow.robot.control import Step
from armflow.robot.errors import DataError, SchemaMismatch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

SUCCESS = EpisodeLabel("success", terminated=True)
LENGTHS = (11, 8, 9)

Record = Callable[..., Path]
Steps = Callable[[int, int], list[Step]]

# Says when it starts, so that the kill falls into the work and not into the imports.
COMMITTING = """
import sys
from pathlib import Path
from armflow.datasets.commit import commit_spool
sys.stdout.write("go\\n"); sys.stdout.flush()
commit_spool(Path(sys.argv[1]), Path(sys.argv[2]))
"""


class Killed(BaseException):
    """Stands for SIGKILL where the moment must be exact."""


@pytest.fixture
def small_disk(disk_of: Callable[[int], Path]) -> Path:
    return disk_of(1)


def assert_holds_the_first(count: int, root: Path, steps: Steps) -> None:
    """The dataset is exactly the first `count` recorded episodes, rows and images."""
    dataset = open_dataset(root)
    assert [episode.length for episode in dataset.episodes] == list(LENGTHS[:count])
    for seed, arrays in enumerate(load_episodes(dataset)):
        recorded = steps(len(arrays), seed)
        assert np.array_equal(arrays.action, np.stack([s.executed.vector for s in recorded]))
        depth = load_depth_mm(dataset, arrays.ref, "head")
        assert np.array_equal(depth, np.stack([s.obs.frames["head"].depth_mm for s in recorded]))
        assert len(load_images(dataset, arrays.ref, "front")) == len(arrays)


def record_three(record: Record) -> None:
    for seed, length in enumerate(LENGTHS):
        record(length, seed)


def test_commit_takes_every_episode_once_and_empties_the_spool(
    record: Record, spool: Path, root: Path, steps: Steps
) -> None:
    record_three(record)
    assert commit_spool(spool, root).committed == 3
    assert_holds_the_first(3, root, steps)
    assert finished(spool) == []
    assert commit_spool(spool, root).committed == 0
    assert [entry.label.seed for entry in read_entries(root)] == [0, 1, 2]


def test_an_episode_that_is_already_there_is_not_added_again(
    record: Record, spool: Path, root: Path, steps: Steps
) -> None:
    path = record(LENGTHS[0], 0)
    copy = path.read_bytes()
    commit_spool(spool, root)
    path.write_bytes(copy)  # as if the process had been killed before it removed the recording
    commit_spool(spool, root)
    assert_holds_the_first(1, root, steps)
    assert finished(spool) == []


@pytest.mark.slow
def test_a_kill_between_any_two_files_loses_and_duplicates_nothing(
    record: Record, tmp_path: Path, spool: Path, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(LENGTHS[0], 0)
    record(LENGTHS[1], 1)
    publish, moves = layout.publish, 0

    def counting(staged: Path, target: Path, *, sync: bool = True) -> None:
        nonlocal moves
        moves += 1
        if moves == killed_at:
            raise Killed
        publish(staged, target, sync=sync)

    monkeypatch.setattr(layout, "publish", counting)  # write_atomic: info.json, calibration
    monkeypatch.setattr(appender, "publish", counting)  # videos and tables
    for killed_at in range(1, 17):  # eight files of the first episode, seven of the second, statistics
        copy, root, moves = tmp_path / f"spool-{killed_at}", tmp_path / f"dataset-{killed_at}", 0
        shutil.copytree(spool, copy)
        with pytest.raises(Killed):
            commit_spool(copy, root)
        if (root / "meta/info.json").exists():
            stored = len(open_dataset(root).episodes)
            assert_holds_the_first(stored, root, steps)
            stock: Any = LeRobotDataset("local/killed", root=root, video_backend="pyav")
            assert stock.num_episodes == stored
            assert stock[len(stock) - 1]["observation.images.front"].shape == (3, 32, 48)
        moves = -1000
        commit_spool(copy, root)
        assert_holds_the_first(2, root, steps)
        assert finished(copy) == []


def test_a_recording_that_overtakes_a_killed_commit_does_not_replace_it(
    record: Record, spool: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = record(LENGTHS[0], 0)

    def killed(path: Path, text: str, *, sync: bool = True) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(appender, "write_atomic", killed)  # everything is in place but info.json
        with pytest.raises(Killed):
            commit_spool(spool, root)
    parked = first.rename(first.with_suffix(".away"))
    record(LENGTHS[1], 1)
    commit_spool(spool, root)
    parked.rename(first)
    commit_spool(spool, root)
    assert [episode.length for episode in open_dataset(root).episodes] == [LENGTHS[1], LENGTHS[0]]


@pytest.mark.slow
def test_sigkill_of_the_committing_process_loses_and_duplicates_nothing(
    record: Record, tmp_path: Path, spool: Path, steps: Steps
) -> None:
    record_three(record)
    rng = np.random.default_rng()
    for attempt in range(5):
        copy, root = tmp_path / f"spool-{attempt}", tmp_path / f"dataset-{attempt}"
        shutil.copytree(spool, copy)
        child = subprocess.Popen([sys.executable, "-c", COMMITTING, copy, root], stdout=subprocess.PIPE)
        assert child.stdout is not None and child.stdout.readline() == b"go\n"
        time.sleep(rng.uniform(0.0, 0.5))
        child.send_signal(signal.SIGKILL)
        child.wait()
        if (root / "meta/info.json").exists():
            assert_holds_the_first(len(open_dataset(root).episodes), root, steps)
        commit_spool(copy, root)
        assert_holds_the_first(3, root, steps)


def test_resuming_with_another_schema_explains_the_difference_and_keeps_the_recording(
    dataset: Path, spool: Path, root: Path
) -> None:
    cfg = SyntheticCfg(fps=20, cameras=("head",))
    writer = SpoolWriter(spool, synthetic_schema(cfg), task="t")
    for step in synthetic_steps(3, cfg, np.random.default_rng(0)):
        writer.add(step)
    path = writer.save(SUCCESS)
    with pytest.raises(SchemaMismatch, match=r"fps: found 10, expected 20\n.*camera front .* is not expected"):
        commit_spool(spool, root)
    assert path.exists()
    assert len(open_dataset(root).episodes) == 3


def test_a_damaged_recording_is_set_aside_with_the_reason_and_the_rest_goes_on(
    record: Record, spool: Path, root: Path
) -> None:
    bad = record(LENGTHS[0], 0)
    record(LENGTHS[1], 1)
    bad.write_bytes(bad.read_bytes()[:2000])
    report = commit_spool(spool, root)
    ((aside, reason),) = report.rejected
    assert report.committed == 1
    assert "not a readable episode" in reason
    assert aside.name.endswith(".rejected.h5") and aside.with_suffix(".txt").read_text().startswith(reason)


def test_nan_in_an_action_is_never_committed(record: Record, spool: Path, root: Path) -> None:
    path = record(LENGTHS[0], 0)
    with h5py.File(path, "r+") as file:
        rows = np.asarray(file["rows"])
        rows["action"][4, 2] = np.nan
        file["rows"][...] = rows  # pyright: ignore[reportIndexIssue]
    ((_, reason),) = commit_spool(spool, root).rejected
    assert "action of frame 4 is not finite in joint3.pos" in reason


def test_frames_that_do_not_match_their_rows_are_never_committed(
    record: Record, spool: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = prove.encode
    monkeypatch.setattr(prove, "encode", lambda path, blocks, *rest: encode(path, (b[1:] for b in blocks), *rest))
    record(LENGTHS[0], 0)
    ((_, reason),) = commit_spool(spool, root).rejected
    assert "does not match the recorded image" in reason or "holds" in reason


def test_two_processes_cannot_commit_to_one_dataset(root: Path) -> None:
    with appender.DatasetAppender(root), pytest.raises(DataError, match="another process is committing"):
        appender.DatasetAppender(root)


def test_a_full_disk_keeps_the_recording(record: Record, spool: Path, small_disk: Path) -> None:
    path = record(LENGTHS[0], 0)
    with pytest.raises(DataError, match="the disk is full: . MB free, up to 16 MB needed"):
        commit_spool(spool, small_disk / "dataset")
    assert finished(spool) == [path]


def test_a_disk_that_fills_up_while_committing_keeps_the_recording(
    record: Record, spool: Path, root: Path, small_disk: Path, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_module, "free_bytes", lambda folder: 10**12)
    path = record(200, 0)
    (small_disk / "ballast").write_bytes(bytes(700_000))
    with pytest.raises(DataError, match="No space left on device.*is kept"):
        commit_spool(spool, small_disk / "dataset")
    assert finished(spool) == [path]
    assert len(read_spool(path)) == 200
    commit_spool(spool, root)
    assert len(open_dataset(root).episodes) == 1


def test_a_missing_spool_folder_is_an_error(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        commit_spool(tmp_path / "typo", root)


def test_calibration_travels_into_the_dataset(spool: Path, root: Path, steps: Steps, cfg: SyntheticCfg) -> None:
    writer = SpoolWriter(spool, synthetic_schema(cfg), task="t", calibration={"head": '{"K": 1}', "front": '{"K": 2}'})
    for step in steps(3, 0):
        writer.add(step)
    writer.save(SUCCESS)
    commit_spool(spool, root)
    (label,) = [entry.label for entry in read_entries(root)]
    text = (root / f"meta/armflow/calibration/{label.calibration_hash}.json").read_text()
    assert '"K": 2' in text


def test_recording_and_committing_import_no_torch() -> None:
    code = "import sys, armflow.datasets.commit, armflow.datasets.recorder; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
