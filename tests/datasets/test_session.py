"""Sessions through the control loop while the rest of the machine misbehaves: a stalled encoder, a full disk, a late start."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from armflow.datasets.appender import DatasetAppender
from armflow.datasets.commit import commit_spool, finished
from armflow.datasets.episodes import load_depth_mm, load_episodes, load_images, open_dataset
from armflow.datasets.labels import EpisodeLabel
from armflow.datasets.layout import STAGING_DIR
from armflow.datasets.recorder import CommitProcess, Recorder, RecorderCfg
from armflow.datasets.recovery import recover_spool, unfinished
from armflow.datasets.spool_file import read_spool
from armflow.robot.errors import DataError
from armflow.tests.datasets import sessions

CUT_OFF = EpisodeLabel("failure", terminated=False)
STALL_S = 2.0
PATIENCE_S = 60.0  # of a busy machine


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def assert_holds(root: Path, lengths: dict[int, int]) -> None:
    """The dataset is exactly these episodes (seed: steps), and every image lies on its row."""
    dataset = open_dataset(root)
    assert {arrays.ref.label.seed: len(arrays) for arrays in load_episodes(dataset) if arrays.ref.label} == lengths
    for arrays in load_episodes(dataset):
        assert arrays.ref.label is not None and arrays.ref.label.seed is not None
        assert np.array_equal(arrays.action, sessions.action(arrays.ref.label.seed, len(arrays)))
        numbers = arrays.columns["frame_number.head"]
        assert np.array_equal(
            load_depth_mm(dataset, arrays.ref, "head")[:, 0, 0], [sessions.depth_mm(n) for n in numbers]
        )
        rgb = load_images(dataset, arrays.ref, "head")[:, 0, 0]
        assert np.abs(rgb.astype(int) - [[sessions.grey(n)] for n in numbers]).max() <= sessions.GREY_TOLERANCE


@pytest.mark.slow
def test_an_encoder_that_stalls_neither_stops_the_session_nor_drops_or_shifts_a_frame(tmp_path: Path) -> None:
    spool, root = tmp_path / "spool", tmp_path / "dataset"
    lengths: dict[int, int] = {}

    def record(length: int) -> None:
        seed = len(lengths)
        sessions.record_episode(recorder, seed, length)
        lengths[seed] = length

    others = sessions.children(os.getpid())  # of other tests
    with Recorder(RecorderCfg(spool, root), sessions.schema()) as recorder:
        (committing,) = set(sessions.children(os.getpid())).difference(others)
        record(200)
        wait_until(lambda: any((root / STAGING_DIR).glob("*/*")))  # it encodes
        os.kill(committing, signal.SIGSTOP)
        try:
            stalled = time.monotonic()
            while time.monotonic() - stalled < STALL_S:
                record(100)
            assert len(finished(spool)) == len(lengths)  # nobody but the recorder has done anything
        finally:
            os.kill(committing, signal.SIGCONT)
    assert len(lengths) > 2
    assert_holds(root, lengths)


@pytest.mark.slow
def test_a_disk_that_fills_up_during_an_episode_ends_it_and_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    spool, root = small_disk / "spool", tmp_path / "dataset"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1_000_000))
    recorder = Recorder(RecorderCfg(spool, root), sessions.schema())  # not entered: committing would make room
    sessions.record_episode(recorder, 0, 40)
    with pytest.raises(DataError, match="disk is full.*Free some space"):
        sessions.record_episode(recorder, 1, 100_000)
    with pytest.raises(DataError, match="disk is full"):
        sessions.record_episode(Recorder(RecorderCfg(spool, root), sessions.schema()), 2, 40)
    (part,) = unfinished(spool)
    kept = len(read_spool(part))
    assert kept > 40
    commit_spool(spool, root)
    with pytest.raises(DataError, match="disk is full.*recover it again"):
        recover_spool(part, CUT_OFF)
    ballast.unlink()
    recover_spool(part, CUT_OFF)
    commit_spool(spool, root)
    assert_holds(root, {0: 40, 1: kept})


@pytest.mark.slow
def test_a_session_begins_while_that_of_a_killed_one_is_still_being_committed(tmp_path: Path) -> None:
    spool, root = tmp_path / "spool", tmp_path / "dataset"
    with DatasetAppender(root):  # stands for the process that the killed session has left
        process = CommitProcess(spool, root)
        sessions.record_episode(Recorder(RecorderCfg(spool, root), sessions.schema()), 0, 20)
        time.sleep(1.0)
        process.check()
    wait_until(lambda: not finished(spool))
    process.stop()
    assert_holds(root, {0: 20})
