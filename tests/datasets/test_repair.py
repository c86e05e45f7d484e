"""Repairing computes what can be computed, leaves out what is lost, says so, and never risks the data that are left."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from armflow.datasets import new_folder
from armflow.datasets.appender import DatasetAppender
from armflow.datasets.check import check_dataset
from armflow.datasets.commit import commit_spool
from armflow.datasets.episodes import load_depth_mm, load_episodes, open_dataset
from armflow.datasets.labels import EpisodeLabel, LabelEntry, append_entry, newest_labels, read_entries
from armflow.datasets.relabel import relabel
from armflow.datasets.repair import repair
from armflow.datasets.synthetic import synthetic_arm
from armflow.robot.control import Step
from armflow.robot.errors import DataError

SUCCESS = EpisodeLabel("success", terminated=True)
LENGTHS = (11, 8, 9)  # of the episodes of `dataset`
VIDEO = "videos/observation.images.head_depth/chunk-000/file-001.mp4"

Steps = Callable[[int, int], list[Step]]


class Killed(BaseException):
    """Stands for SIGKILL where the moment must be exact."""


def content(root: Path) -> dict[str, bytes]:
    files = (p for p in sorted(root.rglob("*")) if p.is_file() and p.name != "commit.lock")
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


def assert_holds(root: Path, seeds: list[int], steps: Steps) -> None:
    """The dataset is these of the three episodes, rows and images, and sound."""
    found = open_dataset(root)
    assert [e.length for e in found.episodes] == [LENGTHS[seed] for seed in seeds]
    for arrays, seed in zip(load_episodes(found), seeds, strict=True):
        recorded = steps(LENGTHS[seed], seed)
        assert np.array_equal(arrays.action, np.stack([s.executed.vector for s in recorded]))
        depth = load_depth_mm(found, arrays.ref, "head")
        assert np.array_equal(depth, np.stack([s.obs.frames["head"].depth_mm for s in recorded]))
    assert check_dataset(root, arm=synthetic_arm()) == []


def damage(root: Path) -> None:
    """Cut the video of episode 1 off."""
    (root / VIDEO).write_bytes((root / VIDEO).read_bytes()[:700])


def test_a_sound_dataset_is_left_alone(dataset: Path) -> None:
    before = content(dataset)
    report = repair(dataset)
    assert not report.plan and report.kept is None and content(dataset) == before


def test_an_episode_with_a_damaged_video_is_left_out_and_the_old_dataset_kept(dataset: Path, steps: Steps) -> None:
    damage(dataset)
    before = content(dataset)
    report = repair(dataset)
    assert list(report.plan.left_out) == [1] and "head_depth: cannot be decoded" in report.plan.left_out[1]
    assert_holds(dataset, [0, 2], steps)
    assert report.kept is not None and content(report.kept) == before
    assert [newest_labels(dataset)[i].seed for i in (0, 1)] == [0, 2]
    lineage = json.loads((dataset / "meta/armflow/lineage.json").read_text())
    assert lineage["made_by"] == "repair" and list(lineage["left_out"]) == ["1"]


@pytest.mark.parametrize("file", ["data/chunk-000/file-002.parquet", "meta/episodes/chunk-000/file-002.parquet"])
def test_lost_rows_and_a_lost_index_entry_are_left_out(dataset: Path, steps: Steps, file: str, tmp_path: Path) -> None:
    (dataset / file).write_bytes(b"PAR1 torn by a power cut")
    before = content(dataset)
    report = repair(dataset, out=tmp_path / "whole")
    assert list(report.plan.left_out) == [2]
    assert_holds(tmp_path / "whole", [0, 1], steps)
    assert content(dataset) == before


def test_what_only_follows_from_the_rest_is_written_anew_in_place(dataset: Path, steps: Steps) -> None:
    label = EpisodeLabel("success", terminated=True, task="stack the bowls", seed=1)
    relabelled = LabelEntry.now(
        1, next(e.episode_id for e in read_entries(dataset) if e.episode_index == 1), label, reason="x"
    )
    append_entry(dataset, relabelled)  # a kill came before the columns
    (dataset / "meta/stats.json").unlink()
    videos = {name: text for name, text in content(dataset).items() if name.startswith("videos")}
    report = repair(dataset)
    assert (report.plan.labels, report.plan.statistics, report.kept) == ((1,), True, None)
    assert {name: text for name, text in content(dataset).items() if name.startswith("videos")} == videos
    assert_holds(dataset, [0, 1, 2], steps)


def test_a_wrong_index_is_written_anew(dataset: Path, steps: Steps) -> None:
    info = json.loads((dataset / "meta/info.json").read_text())
    (dataset / "meta/info.json").write_text(json.dumps(info | {"total_frames": 99}))
    assert repair(dataset).plan.rewrite == ("info.json counts 99 frames",)
    assert_holds(dataset, [0, 1, 2], steps)


def test_a_person_may_drop_episodes_and_ask_first_what_would_happen(dataset: Path, steps: Steps) -> None:
    before = content(dataset)
    plan = repair(dataset, drop=[0], dry_run=True).plan
    assert plan.lines() == ["episode 0 is left out: asked for", "statistics are computed anew over all frames"]
    assert content(dataset) == before
    repair(dataset, drop=[0])
    assert_holds(dataset, [1, 2], steps)
    with pytest.raises(DataError, match=r"no episodes \[2\]; it has 0 to 1"):
        repair(dataset, drop=[2])
    with pytest.raises(DataError, match="no episode would be left"):
        repair(dataset, drop=[0, 1])


def test_a_damaged_episode_is_committed_again_from_its_recording(
    record: Callable[..., Path], spool: Path, root: Path, tmp_path: Path, steps: Steps
) -> None:
    for seed, length in enumerate(LENGTHS):
        record(length, seed)
    shutil.copytree(spool, tmp_path / "backup")
    commit_spool(spool, root)
    relabel(
        root, 1, EpisodeLabel("failure", False, "slipped", task="stack the bowls", seed=1), author="ada", reason="r"
    )
    damage(root)
    report = repair(root, spool=tmp_path / "backup")
    assert len(report.recommitted) == 1
    assert_holds(root, [0, 2, 1], steps)  # at the end
    assert newest_labels(root)[2].failure_tag == "slipped"
    assert [(e.author, e.label.outcome) for e in read_entries(root) if e.episode_index == 2][-2:] == [("", "success"), ("ada", "failure")]  # fmt: skip


@pytest.mark.parametrize("moment", ["before both", "between", "after both"])
def test_a_kill_at_any_step_of_taking_the_place_leaves_a_whole_dataset(
    dataset: Path, steps: Steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    rename, sync = os.rename, new_folder.sync_folder
    moved: list[Path] = []

    def killed_before(source: Path, target: Path) -> None:
        if moment == "before both":
            raise Killed
        rename(source, target)
        moved.append(Path(target))
        if moment == "between":
            raise Killed

    def killed_after(folder: Path) -> None:
        if moved and folder == dataset.parent:
            raise Killed
        sync(folder)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed_before)
        patch.setattr(new_folder, "sync_folder", killed_after)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a real kill cleans nothing up
        with pytest.raises(Killed):
            repair(dataset, drop=[1])
    assert_holds(dataset, [0, 2] if moment == "after both" else [0, 1, 2], steps)
    kept = [path for path in tmp_path.iterdir() if ".before-repair-" in path.name]
    if moment == "after both":
        assert_holds(kept[0], [0, 1, 2], steps)
        return
    repair(dataset, drop=[1])
    assert_holds(dataset, [0, 2], steps)


def test_a_dataset_that_is_being_recorded_into_is_not_repaired(dataset: Path) -> None:
    with DatasetAppender(dataset), pytest.raises(DataError, match="another process is committing"):
        repair(dataset, drop=[1])


def test_a_file_system_that_cannot_exchange_folders_is_said_and_nothing_changed(
    dataset: Path, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_folder, "RENAME_EXCHANGE", 1 << 20)  # no such flag
    with pytest.raises(DataError, match=r"Nothing was changed; the repaired dataset is .*before-repair"):
        repair(dataset, drop=[1])
    assert_holds(dataset, [0, 1, 2], steps)
    (kept,) = [path for path in dataset.parent.iterdir() if ".before-repair-" in path.name]
    assert_holds(kept, [0, 2], steps)
