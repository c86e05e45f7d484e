"""Sessions killed at any moment: through the control loop, the recorder and the committing process, into one dataset."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from armflow.datasets.commit import commit_spool
from armflow.datasets.episodes import load_depth_mm, load_episodes, load_images, open_dataset
from armflow.datasets.labels import EpisodeLabel, episode_ids
from armflow.datasets.layout import STAGING_DIR
from armflow.datasets.recovery import recover_spool, unfinished
from armflow.datasets.spool_file import SpoolEpisode, read_spool
from armflow.robot.errors import CorruptEpisode
from armflow.tests.datasets import sessions
from lerobot.datasets.lerobot_dataset import LeRobotDataset

CUT_OFF = EpisodeLabel("failure", terminated=False, failure_tag="killed")
KILLS = 54

PATIENCE_S = 60.0  # of a busy machine


@dataclass
class Told:
    """What a session has said before it was killed."""

    number: int
    pid: int = 0
    added: dict[int, int] = field(default_factory=dict)  # seed -> steps
    flushed: dict[str, int] = field(default_factory=dict)  # spool file -> frames
    saved: dict[int, Path] = field(default_factory=dict)  # seed -> spool file
    over: bool = False


class Sessions:
    """The script that forks sessions, seen from the test."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def begin(self, number: int, spool: Path, root: Path) -> Told:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{number} {spool} {root}\n")
        self._process.stdin.flush()
        told = Told(number)
        self.listen(told, lambda: told.pid)
        return told

    def listen(self, told: Told, until: Any, patience_s: float = PATIENCE_S) -> bool:
        """Take in what the session says until `until()` is true, or for `patience_s`; returns whether it is."""
        deadline = time.monotonic() + patience_s
        while not until():
            try:
                kind, *values = json.loads(self._lines.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                return False
            if kind == "began":
                told.pid = values[1]
            elif kind in ("added", "flushed"):
                getattr(told, kind)[values[0]] = values[1]
            elif kind == "saved":
                told.saved[values[0]] = Path(values[1])
            elif kind == "over":
                told.over = True
            else:
                pytest.fail(f"{kind}: {values}")
        return True

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)


@contextmanager
def forked_sessions(errors: Path) -> Iterator[Sessions]:
    with errors.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, sessions.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        try:
            yield Sessions(process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # sessions that a failed test has left, too
            process.communicate()


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_session(pid: int) -> list[int]:
    """Kill a session where it is; returns what outlives it: the committing process, if it has started one."""
    os.kill(pid, signal.SIGSTOP)  # between looking for that one and the kill it must not start it
    assert wait_until(lambda: state(pid) == "T")
    started = sessions.children(pid)
    kill(pid)
    return started


def state(pid: int) -> str:
    """Of a process: R, S, D, T (stopped), Z (ended, nobody has asked) or nothing."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def running(pids: list[int]) -> list[int]:
    return [pid for pid in pids if state(pid) not in ("", "Z")]


def wait_until(condition: Any, patience_s: float = PATIENCE_S) -> bool:
    deadline = time.monotonic() + patience_s
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return bool(met)


def at_any_moment(ours: Sessions, told: Told, root: Path, rng: np.random.Generator) -> None:
    steps = int(rng.integers(0, 80))  # of all its episodes, and not a time: a busy machine needs longer for them
    assert ours.listen(told, lambda: sum(told.added.values()) >= steps)
    time.sleep(rng.uniform(0.0, 0.01))


def while_saving(ours: Sessions, told: Told, root: Path, rng: np.random.Generator) -> None:
    first = told.number * sessions.EPISODES
    seed = int(rng.integers(first, first + 3))
    assert ours.listen(told, lambda: told.added.get(seed) == sessions.length_of(seed))  # the loop has only to end
    time.sleep(rng.uniform(0.0, 0.01))


def while_committing(ours: Sessions, told: Told, root: Path, rng: np.random.Generator) -> None:
    assert ours.listen(told, lambda: told.saved)
    wait_until(lambda: any((root / STAGING_DIR).glob("*/*")), 3.0)
    time.sleep(rng.uniform(0.0, 0.06))


def assert_recorded(seed: int, actions: np.ndarray) -> None:
    """These are the first steps of the episode with this seed, none left out."""
    assert np.array_equal(actions, sessions.action(seed, len(actions)))


def recover(part: Path, told: Told) -> dict[int, int]:
    """Recover what a killed session has left: the episode's seed and length; nothing if it had flushed nothing."""
    flushed = told.flushed.get(str(part), 0)
    try:
        episode: SpoolEpisode | None = read_spool(part)
    except CorruptEpisode:
        episode = None  # killed while the file was being made
    if not episode:
        assert flushed == 0
        part.unlink()
        return {}
    seed = episode.header.seed
    assert seed is not None
    assert (
        flushed <= len(episode) <= told.added.get(seed, 0) + 1
    )  # it may have died before saying that a step was added
    assert_recorded(seed, episode.rows["action"])
    recover_spool(part, CUT_OFF)
    return {seed: len(episode)}


def open_stock(root: Path) -> Any:  # its __getitem__ is annotated as that of a sequence
    return LeRobotDataset("local/killed", root=root, video_backend="pyav")


@pytest.mark.slow
def test_sigkill_at_any_moment_loses_no_saved_episode_and_no_flushed_frame(tmp_path: Path) -> None:
    spool, root = tmp_path / "spool", tmp_path / "dataset"
    rng = np.random.default_rng(20261122)
    moments = (at_any_moment, while_saving, while_committing)
    saved: dict[int, Path] = {}
    recovered: dict[int, int] = {}
    flushed: dict[str, int] = {}
    committing: list[int] = []
    try:
        with forked_sessions(tmp_path / "errors.log") as ours:
            for number in range(KILLS):
                told = ours.begin(number, spool, root)
                moment = moments[number % len(moments)]
                moment(ours, told, root, rng)
                committing += kill_session(told.pid)
                if moment is while_committing:
                    for pid in committing:
                        kill(pid)
                assert ours.listen(told, lambda told=told: told.over)
                committing = running(committing)
                saved |= told.saved
                flushed |= told.flushed
                for part in unfinished(spool):
                    recovered |= recover(part, told)
                missing = [path for path in told.saved.values() if not path.exists()]
                assert {path.stem for path in missing} <= set(episode_ids(root).values())
                if moment is while_committing and (root / "meta/info.json").exists():
                    assert (stock := open_stock(root))[len(stock) - 1]["next.done"]
        assert wait_until(lambda: not running(committing)), "a committing process has outlived its session"
    finally:
        for pid in running(committing):
            kill(pid)
    commit_spool(spool, root)

    assert len(saved) > KILLS // 3 and len(recovered) > KILLS // 9 and flushed, "the kills have hit nothing"
    assert list(spool.glob("*.h5")) == []
    assert_complete(root, {seed: sessions.length_of(seed) for seed in saved} | recovered)


def assert_complete(root: Path, expected: dict[int, int]) -> None:
    """Episodes of these seeds and lengths are there once and unchanged, for us and for stock LeRobot."""
    dataset = open_dataset(root)
    episodes = load_episodes(dataset)
    seeds = [arrays.ref.label.seed for arrays in episodes if arrays.ref.label]
    assert len(set(seeds)) == len(seeds) == len(episodes)
    assert set(expected) <= set(seeds)
    for seed, arrays in zip(seeds, episodes, strict=True):
        assert seed is not None
        assert_recorded(seed, arrays.action)
        assert len(arrays) == expected.get(seed, sessions.length_of(seed))  # killed before it could say "saved"
        numbers = arrays.columns["frame_number.head"]
        rgb, depth = load_images(dataset, arrays.ref, "head"), load_depth_mm(dataset, arrays.ref, "head")
        for number, colour, distance in zip(numbers, rgb, depth, strict=True):
            assert np.abs(colour.astype(int) - sessions.grey(number)).max() <= sessions.GREY_TOLERANCE
            assert (distance == sessions.depth_mm(number)).all()

    stock = open_stock(root)
    assert (stock.num_episodes, len(stock)) == (len(episodes), sum(map(len, episodes)))
    first = 0
    for arrays in episodes:
        for row in (0, len(arrays) - 1):
            item = stock[first + row]
            assert np.array_equal(item["action"], arrays.action[row])
            grey = item["observation.images.head"].numpy() * 255
            assert np.abs(grey - sessions.grey(int(item["frame_number.head"]))).max() <= sessions.GREY_TOLERANCE
        first += len(arrays)
