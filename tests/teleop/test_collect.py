"""Many episodes in parallel: what is recorded, and what an interruption costs. All with real images, videos and kills."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from armflow.datasets.episodes import EpisodeArrays, load_episodes, open_dataset
from armflow.datasets.layout import INFO_PATH, read_info
from armflow.robot.control import CommandSource, Decision
from armflow.robot.errors import DataError, SafetyStop
from armflow.robot.rig import DEFAULT_RIG, Rig, load_rig
from armflow.robot.twin.cell import Episode, episode_rng
from armflow.robot.twin.tasks import get_task
from armflow.robot.types import ArmCommand, ControlMode, Observation
from armflow.teleop import collect as collecting
from armflow.teleop.collect import CollectCfg, Job, Scripted, collect, missing_jobs, record
from armflow.teleop.expert import ExpertCfg
from lerobot.datasets.lerobot_dataset import LeRobotDataset

JOBS = [Job("pick_peach", 11), Job("stack_bowls", 11), Job("pick_peach", 12)]  # two tasks share a seed
ONE = CollectCfg(workers=1)

Key = tuple[str, int | None]  # instruction and seed


def key(rig: Rig, job: Job) -> Key:
    task = get_task(job.task)
    return task.layout(episode_rng(task, job.seed), np.array(rig.arm.home_q)).instruction, job.seed


def episodes(root: Path) -> list[tuple[Key, EpisodeArrays]]:
    """What a reader finds, in the order of the dataset."""
    loaded = load_episodes(open_dataset(root))
    return [((e.ref.label.task, e.ref.label.seed), e) for e in loaded if e.ref.label is not None]


def keys(root: Path) -> list[Key]:
    return [k for k, _ in episodes(root)]


def committed(root: Path) -> int:
    info = read_info(root)
    return 0 if info is None else int(info["total_episodes"])


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def collected(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`JOBS` by two workers. Shared: tests change a copy."""
    root = tmp_path_factory.mktemp("collected") / "demos"
    collect(rig, JOBS, Scripted(), root, CollectCfg(workers=2))
    return root


@pytest.fixture
def dataset(collected: Path, tmp_path: Path) -> Path:
    return shutil.copytree(collected, tmp_path / "demos")


pytestmark = pytest.mark.slow  # each simulates and encodes episodes, or shares some that were


# --- what is recorded


def test_every_job_is_an_episode_in_the_order_of_the_jobs(rig: Rig, dataset: Path) -> None:
    """Whoever of the workers was faster."""
    assert keys(dataset) == [key(rig, job) for job in JOBS]


def test_stock_lerobot_reads_it(rig: Rig, dataset: Path) -> None:
    # Its default decoder needs FFmpeg's shared libraries; PyAV brings its own.
    stock: Any = LeRobotDataset("local/test", root=dataset, video_backend="pyav")
    ours = episodes(dataset)
    assert (stock.num_episodes, len(stock), stock.fps) == (3, sum(len(e) for _, e in ours), rig.control_hz)
    first, last = stock[0], stock[len(stock) - 1]
    assert (first["task"], last["task"]) == (key(rig, JOBS[0])[0], key(rig, JOBS[-1])[0])
    np.testing.assert_array_equal(last["action"], ours[-1][1].action[-1])
    for camera in rig.cameras:
        assert first[f"observation.images.{camera.name}"].shape == (3, 48, 64)
        assert 0.1 < float(first[f"observation.images.{camera.name}"].mean()) < 0.9


def test_labels_say_who_acted_how_it_ended_and_where(rig: Rig, dataset: Path) -> None:
    for _, episode in episodes(dataset):
        label = episode.ref.label
        assert label is not None and label.loop is not None
        assert (label.outcome, label.terminated, label.operator, label.policy_hash) == ("success", True, "scripted", "")
        assert label.rig_hash == rig.hash
        assert label.loop.steps == len(episode)


def test_another_arm_is_recorded_under_its_own_name(tmp_path: Path) -> None:
    xarm = load_rig(DEFAULT_RIG.with_name("xarm7_table.toml")).with_image_size(64, 48)
    collect(xarm, [Job("pick_peach", 11)], Scripted(), tmp_path / "demos", ONE)
    (label,) = [e.ref.label for _, e in episodes(tmp_path / "demos")]
    assert label is not None and label.outcome == "success" and label.rig_hash == xarm.hash
    assert (read_info(tmp_path / "demos") or {})["robot_type"] == "xarm7"


def test_the_same_seed_gives_the_same_episode_whoever_collects_it(rig: Rig, dataset: Path, tmp_path: Path) -> None:
    """In another process, in another order, after other episodes."""
    collect(rig, JOBS[::-1], Scripted(), tmp_path / "again", ONE)
    first, again = dict(episodes(dataset)), dict(episodes(tmp_path / "again"))
    assert set(first) == set(again)
    for k in first:
        np.testing.assert_array_equal(first[k].action, again[k].action)
        np.testing.assert_array_equal(first[k].state, again[k].state)


@pytest.mark.parametrize("keep", [True, False])
def test_failures_are_recorded_only_if_they_are_to_be_kept(rig: Rig, tmp_path: Path, keep: bool) -> None:
    """Ten ticks are too few for the slow operator."""
    root, slow = tmp_path / "demos", Scripted(ExpertCfg(speed_m_s=0.05))
    collect(rig, JOBS[:1], slow, root, replace(ONE, max_steps=10, keep_failures=keep))
    assert committed(root) == keep
    for _, episode in episodes(root) if keep else []:
        label = episode.ref.label
        assert label is not None
        assert (label.outcome, label.terminated, label.failure_tag) == ("failure", False, "time limit")
        assert "cm off centre" in label.notes


# --- going on


def test_running_again_records_nothing_more(rig: Rig, dataset: Path) -> None:
    before = content(dataset)
    collect(rig, JOBS, Scripted(), dataset, ONE)
    assert content(dataset) == before


def test_seeds_that_are_missing_are_filled_in(rig: Rig, dataset: Path) -> None:
    more = [Job("stack_bowls", 10), *JOBS, Job("pick_peach", 13)]
    assert missing_jobs(rig, more, dataset) == [more[0], more[-1]]
    collect(rig, more, Scripted(), dataset, ONE)
    assert keys(dataset) == [key(rig, job) for job in [*JOBS, more[0], more[-1]]]
    assert not dataset.with_name("demos.rounds").exists()


def test_all_jobs_are_missing_from_a_dataset_that_is_not_there(rig: Rig, tmp_path: Path) -> None:
    assert missing_jobs(rig, JOBS, tmp_path / "demos") == JOBS


def test_an_episode_that_was_cut_off_just_before_it_counted_is_missing(rig: Rig, dataset: Path) -> None:
    """Its label is written, then the process was killed: `info.json` does not count it."""
    info = read_info(dataset)
    assert info is not None
    lost = len(episodes(dataset)[-1][1])
    info |= {"total_episodes": 2, "total_frames": info["total_frames"] - lost, "splits": {"train": "0:2"}}
    (dataset / INFO_PATH).write_text(json.dumps(info))
    assert missing_jobs(rig, JOBS, dataset) == JOBS[-1:]
    collect(rig, JOBS, Scripted(), dataset, ONE)
    assert keys(dataset) == [key(rig, job) for job in JOBS]


def test_a_round_that_a_kill_left_behind_is_not_committed_beside_its_repetition(rig: Rig, tmp_path: Path) -> None:
    root = tmp_path / "demos"
    record(rig, JOBS[:1], Scripted(), tmp_path / "demos.rounds/round-000000", ONE)
    collect(rig, JOBS[:1], Scripted(), root, ONE)
    assert keys(root) == [key(rig, JOBS[0])]


COLLECT = """
import sys
from pathlib import Path
from armflow.robot.rig import load_rig
from armflow.teleop import collect as c

c.ROUND = 2
jobs = [c.Job("pick_peach", seed) for seed in range(int(sys.argv[2]))]
c.collect(load_rig().with_image_size(64, 48), jobs, c.Scripted(), Path(sys.argv[1]), c.CollectCfg(workers=1))
"""


def collecting_process(root: Path, count: int) -> subprocess.Popen[bytes]:
    """Collects the first `count` seeds in rounds of two."""
    return subprocess.Popen([sys.executable, "-c", COLLECT, str(root), str(count)], start_new_session=True)


def kill_with_children(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_killed_in_the_middle_and_run_again_every_seed_is_there_once(rig: Rig, tmp_path: Path) -> None:
    root, count = tmp_path / "demos", 6
    process = collecting_process(root, count)
    while committed(root) < 2 and process.poll() is None:  # the first round
        time.sleep(0.01)
    kill_with_children(process)
    assert 2 <= committed(root) < count
    before = episodes(root)

    assert collecting_process(root, count).wait() == 0
    found = episodes(root)
    assert sorted(k[1] for k, _ in found if k[1] is not None) == list(range(count))
    for (k, was), (k_now, now) in zip(before, found, strict=False):
        assert k == k_now
        np.testing.assert_array_equal(was.action, now.action)
    assert not root.with_name("demos.rounds").exists()
    stock: Any = LeRobotDataset("local/test", root=root, video_backend="pyav")
    assert (stock.num_episodes, len(stock)) == (count, sum(len(e) for _, e in found))


# --- damage


def test_a_recording_that_cannot_be_committed_is_not_swallowed(tmp_path: Path, dataset: Path) -> None:
    """Without it the dataset would lack a seed, and nobody would know."""
    folder = tmp_path / "round"
    folder.mkdir()
    (folder / "0000-pick_peach-1.h5").write_bytes(b"not a recording")
    with pytest.raises(DataError, match="pick_peach-1"):
        collecting._commit(folder, dataset)


# --- what safety stops


class Jump:
    """Asks at once for a pose far away."""

    def wants_frames(self) -> bool:
        return False

    def next(self, obs: Observation) -> Decision:
        return Decision(ArmCommand(obs.arm.q + 1.0, 1.0), ControlMode.POLICY)


@dataclass(frozen=True)
class Wild:
    """Scripted, but for the seeds that jump."""

    jumping: tuple[int, ...]
    operator: str = "policy"
    policy_hash: str = ""

    def __call__(self, episode: Episode, rig: Rig, seed: int) -> CommandSource:
        return Jump() if seed in self.jumping else Scripted()(episode, rig, seed)


def test_an_episode_that_safety_stops_is_named_and_the_others_go_on(
    rig: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collect(rig, JOBS, Wild(jumping=(12,)), tmp_path / "demos", ONE)
    assert keys(tmp_path / "demos") == [key(rig, job) for job in JOBS[:2]]
    assert "1 of 3 episodes, safety stop: first command" in " ".join(capsys.readouterr().out.split())


def test_a_collection_whose_last_episode_is_always_stopped_can_be_asked_for_again(
    rig: Rig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        collect(rig, JOBS, Wild(jumping=(12,)), tmp_path / "demos", ONE)
    assert keys(tmp_path / "demos") == [key(rig, job) for job in JOBS[:2]]
    collect(rig, JOBS[2:], Wild(jumping=(12,)), tmp_path / "demos", ONE)  # asked for alone: the operator still drives
    assert keys(tmp_path / "demos") == [key(rig, job) for job in JOBS[:2]]
    assert "1 of 1 episodes, safety stop: first command" in " ".join(capsys.readouterr().out.split())


def test_when_safety_stops_every_episode_nothing_goes_on(rig: Rig, tmp_path: Path) -> None:
    with pytest.raises(SafetyStop, match="all 3 episodes of a round were stopped"):
        collect(rig, JOBS, Wild(jumping=(11, 12)), tmp_path / "demos", ONE)
