import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from armflow.datasets.episodes import dataset_hash, load_episodes, open_dataset
from armflow.datasets.labels import (
    EpisodeLabel,
    LabelEntry,
    append_entry,
    label_columns,
    newest_labels,
    read_entries,
)
from armflow.datasets.relabel import relabel, relabel_all
from armflow.robot.control import LoopStats
from armflow.robot.errors import DataError

SUCCESS = EpisodeLabel("success", terminated=True)
FULL = EpisodeLabel(
    outcome="failure",
    terminated=False,
    failure_tag="slipped",
    milestone=2.0,
    operator="ada",
    task="pick",
    policy_hash="p",
    trial_id="t1",
    seed=7,
    rig_hash="r",
    calibration_hash="c",
    loop=LoopStats(80, 1, 0.002, 0.01),
    notes="wet table",
)


def test_labels_survive_the_journal(tmp_path: Path) -> None:
    append_entry(tmp_path, LabelEntry.now(0, "a", FULL, author="ada", reason="committed"))
    (entry,) = read_entries(tmp_path)
    assert (entry.label, entry.author, entry.episode_id) == (FULL, "ada", "a")


def test_the_newest_label_counts_and_the_older_ones_stay(tmp_path: Path) -> None:
    for label in (FULL, SUCCESS):
        append_entry(tmp_path, LabelEntry.now(3, "a", label, reason="x"))
    assert newest_labels(tmp_path) == {3: SUCCESS}
    assert len(read_entries(tmp_path)) == 2


def test_a_line_torn_by_a_kill_never_happened(tmp_path: Path) -> None:
    append_entry(tmp_path, LabelEntry.now(0, "a", FULL, reason="x"))
    journal = tmp_path / "meta/armflow/labels.jsonl"
    with journal.open("a") as file:
        file.write('{"episode_index": 1, "episo')
    assert len(read_entries(tmp_path)) == 1
    append_entry(tmp_path, LabelEntry.now(1, "b", SUCCESS, reason="x"))
    assert [entry.episode_id for entry in read_entries(tmp_path)] == ["a", "b"]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    append_entry(tmp_path, LabelEntry.now(0, "a", FULL, reason="x"))
    journal = tmp_path / "meta/armflow/labels.jsonl"
    journal.write_text(journal.read_text() + '{"episode_index": 1}\n')
    with pytest.raises(DataError, match=r"labels.jsonl:2: not a label"):
        read_entries(tmp_path)


def test_contradictions_are_refused() -> None:
    with pytest.raises(DataError, match="'won' is not one of success, failure"):
        EpisodeLabel("won", terminated=True)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match="terminated"):
        EpisodeLabel("success", terminated=False)
    with pytest.raises(DataError, match="wrong fields"):
        EpisodeLabel.from_dict({"outcome": "success", "terminated": True, "mood": "good"})


def test_reward_is_one_on_the_last_frame_of_a_success_only() -> None:
    columns = label_columns(SUCCESS, 4)
    assert columns["next.reward"].tolist() == [0, 0, 0, 1]
    assert columns["next.success"].tolist() == [False, False, False, True]
    failed = label_columns(FULL, 4)
    assert failed["next.reward"].tolist() == [0, 0, 0, 0]
    assert failed["next.done"].tolist() == [False, False, False, True]


def test_relabelling_changes_rows_and_journal_but_no_video(dataset: Path) -> None:
    videos = {path: path.read_bytes() for path in dataset.rglob("*.mp4")}
    before, key = newest_labels(dataset)[0], dataset_hash(dataset)
    label = replace(before, outcome="failure", failure_tag="fell over later")
    relabel(dataset, 0, label, author="grace", reason="watched the video")

    assert newest_labels(dataset)[0] == label
    assert [entry.reason for entry in read_entries(dataset)][-1] == "watched the video"
    rows = pq.ParquetFile(dataset / "data/chunk-000/file-000.parquet").read()
    assert not any(rows["next.success"].to_pylist()) and sum(rows["next.reward"].to_pylist()) == 0
    assert load_episodes(open_dataset(dataset))[0].reward.sum() == 0
    assert dataset_hash(dataset) != key
    assert {path: path.read_bytes() for path in dataset.rglob("*.mp4")} == videos


def test_relabelling_needs_an_author_a_reason_and_an_episode(dataset: Path) -> None:
    with pytest.raises(DataError, match="author and a reason"):
        relabel(dataset, 0, SUCCESS, author="", reason="x")
    with pytest.raises(DataError, match="no episode 9; it has 0 to 2"):
        relabel(dataset, 9, SUCCESS, author="a", reason="x")


def test_discarding_after_the_fact_keeps_the_episode_out_of_training(dataset: Path) -> None:
    relabel(dataset, 1, EpisodeLabel("discarded", terminated=False), author="ada", reason="camera moved")
    assert [episode.kept for episode in open_dataset(dataset).episodes] == [True, False, True]


def test_the_hash_of_a_dataset_follows_its_content_not_its_place(dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    assert dataset_hash(copy) == dataset_hash(dataset)
    video = next((copy / "videos").rglob("*.mp4"))
    video.write_bytes(video.read_bytes() + b"\0")
    assert dataset_hash(copy) != dataset_hash(dataset)


def test_reading_reports_what_is_missing(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no LeRobot dataset here"):
        open_dataset(tmp_path / "nothing")
    with pytest.raises(DataError, match="no column observation.pressure; it has .*action"):
        load_episodes(open_dataset(dataset), columns=["observation.pressure"])
    (dataset / "meta/episodes/chunk-000/file-001.parquet").unlink()
    with pytest.raises(DataError, match=r"episodes \[1\] of 3 are missing"):
        open_dataset(dataset)


def test_terminated_follows_the_label(dataset: Path) -> None:
    loaded = load_episodes(open_dataset(dataset))
    assert [(e.terminated, e.success) for e in loaded] == [(True, True), (False, False), (True, True)]
    assert np.array_equal(loaded[0].reward, loaded[0].columns["next.reward"])


def test_relabelling_changes_what_is_named_and_keeps_the_rest(dataset: Path) -> None:
    changed = relabel_all(dataset, [1, 1], "success", {"notes": "seen on video"}, author="ada", reason="misjudged")
    assert changed == {1: ("failure", "success")}
    label = newest_labels(dataset)[1]
    assert (label.outcome, label.terminated, label.failure_tag, label.notes) == ("success", True, "", "seen on video")
    assert (label.seed, label.task) == (1, "stack the bowls")
    assert [e.label.outcome for e in read_entries(dataset) if e.episode_index == 1] == ["failure", "success"]
    stats = json.loads((dataset / "meta/stats.json").read_text())
    assert stats["next.reward"]["mean"] == [pytest.approx(3 / 28)]


def test_nothing_is_relabelled_if_one_episode_is_wrong(dataset: Path) -> None:
    before = (dataset / "meta/armflow/labels.jsonl").read_bytes()
    with pytest.raises(DataError, match=r"no episodes \[3\]; it has 0 to 2"):
        relabel_all(dataset, [0, 3], "failure", {}, author="ada", reason="x")
    (dataset / "meta/armflow/labels.jsonl").unlink()
    with pytest.raises(DataError, match="episode 0 has no label yet; say with --terminated"):
        relabel_all(dataset, [0], "failure", {}, author="ada", reason="x")
    relabel_all(dataset, [0], "failure", {"terminated": False}, author="ada", reason="x")
    assert newest_labels(dataset)[0].task == "stack the bowls"
    assert before.startswith(b'{"episode_index": 0')
