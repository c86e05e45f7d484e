"""What is exported is read again by others: our HDF5 by the ALOHA reader, our v2.1 by LeRobot's own converter to v3.0."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from armflow import cli
from armflow.datasets.episodes import load_episodes, load_images, open_dataset
from armflow.datasets.export_hdf5 import export_hdf5
from armflow.datasets.export_lerobot21 import export_lerobot21
from armflow.datasets.import_data import import_episodes
from armflow.datasets.import_source import SourceMap
from armflow.datasets.relabel import relabel_all
from armflow.datasets.synthetic import synthetic_arm
from armflow.datasets.video import read_frames
from armflow.robot.control import Step
from armflow.robot.errors import DataError
from lerobot.datasets.aggregate import aggregate_datasets
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.scripts.convert_dataset_v21_to_v30 import convert_dataset, legacy_load_episodes_stats

LENGTHS, TASKS = (11, 8, 9), ("stack the bowls", "stack the bowls", "pick the peach")
COLOUR = ("observation.images.head", "observation.images.front")

Steps = Callable[[int, int], list[Step]]


@pytest.fixture
def exported(dataset: Path, tmp_path: Path) -> Path:
    found = open_dataset(dataset)
    export_lerobot21(found, found.episodes, tmp_path / "v21")
    return tmp_path / "v21"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- HDF5


def test_hdf5_holds_everything_under_the_names_it_documents(dataset: Path, tmp_path: Path, steps: Steps) -> None:
    found = open_dataset(dataset)
    export_hdf5(found, found.episodes, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"episode_{i}.hdf5" for i in range(3)]
    recorded = steps(8, 1)
    with h5py.File(tmp_path / "out/episode_1.hdf5") as file:
        columns: dict[str, Any] = {}
        file.visititems(lambda name, item: columns.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
        assert json.loads(str(file.attrs["label"]))["failure_tag"] == "dropped"
        assert (file.attrs["fps"], file.attrs["task"], bool(file.attrs["sim"])) == (10, "stack the bowls", False)
        assert np.asarray(file.attrs["joint_names"]).tolist() == list(found.schema.action_names)
    assert np.array_equal(columns["observations/qpos"], np.stack([s.obs.arm.vector for s in recorded]))
    assert np.array_equal(columns["action"], np.stack([s.executed.vector for s in recorded]))
    assert np.array_equal(columns["armflow/action.requested"], np.stack([s.requested.vector for s in recorded]))
    assert np.array_equal(columns["armflow/capture_time.arm"], [s.obs.arm.t for s in recorded])
    assert np.array_equal(
        columns["observations/depth/front"], np.stack([s.obs.frames["front"].depth_mm for s in recorded])
    )
    assert np.array_equal(columns["observations/images/head"], load_images(found, found.episodes[1], "head"))
    assert columns["observations/qvel"].shape == columns["observations/effort"].shape == (8, 7)


def test_hdf5_comes_back_through_the_aloha_reader(dataset: Path, tmp_path: Path) -> None:
    found = open_dataset(dataset)
    export_hdf5(found, found.episodes, tmp_path / "out")
    cfg = SourceMap(synthetic_arm(), 10, {"head": "head", "front": "front"}, "again", "success", (0.0, 1.0), (0.0, 1.0))
    assert import_episodes("aloha", [tmp_path / "out"], tmp_path / "back", cfg).imported == 3
    back = open_dataset(tmp_path / "back")
    for ours, theirs in zip(load_episodes(found), load_episodes(back), strict=True):
        assert np.array_equal(ours.state, theirs.state) and np.array_equal(ours.action, theirs.action)
        assert np.array_equal(ours.columns["observation.effort"], theirs.columns["observation.effort"])


def test_a_full_disk_is_said_before_it_is_written_to(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("armflow.datasets.export_hdf5.free_bytes", lambda folder: 1000)
    found = open_dataset(dataset)
    with pytest.raises(DataError, match="MB needed for episode 0"):
        export_hdf5(found, found.episodes, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.new").exists()


# --- LeRobot v2.1


def test_v21_tables_field_by_field(exported: Path) -> None:
    info = json.loads((exported / "meta/info.json").read_text())
    features = info.pop("features")
    assert info == {
        "codebase_version": "v2.1",
        "robot_type": "synthetic",
        "total_episodes": 3,
        "total_frames": 28,
        "total_tasks": 2,
        "total_videos": 6,
        "total_chunks": 1,
        "chunks_size": 1000,
        "fps": 10,
        "splits": {"train": "0:3"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    names = [*(f"joint{i}.pos" for i in range(1, 8)), "gripper.pos"]
    assert features["action"] == {"dtype": "float32", "shape": [8], "names": names}
    assert features["index"] == {"dtype": "int64", "shape": [1], "names": None}
    assert features[COLOUR[0]] == {
        "dtype": "video",
        "shape": [32, 48, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": 32,
            "video.width": 48,
            "video.codec": "h264",
            "video.pix_fmt": "yuv444p",
            "video.is_depth_map": False,
            "video.fps": 10,
            "video.channels": 3,
            "has_audio": False,
        },
    }
    assert [name for name in features if "images" in name] == list(COLOUR)
    assert lines(exported / "meta/tasks.jsonl") == [
        {"task_index": i, "task": t} for i, t in enumerate(dict.fromkeys(TASKS))
    ]
    assert lines(exported / "meta/episodes.jsonl") == [
        {"episode_index": i, "tasks": [TASKS[i]], "length": LENGTHS[i]} for i in range(3)
    ]
    for i, length in enumerate(LENGTHS):
        table = pq.read_table(exported / f"data/chunk-000/episode_{i:06d}.parquet")
        assert table.column_names == [name for name in features if name not in COLOUR]
        assert table.num_rows == length and table["frame_index"].to_pylist() == list(range(length))
        for name in COLOUR:
            assert (exported / f"videos/chunk-000/{name}/episode_{i:06d}.mp4").stat().st_size > 500


def test_v21_statistics_are_those_of_each_episode(exported: Path, steps: Steps) -> None:
    stats = legacy_load_episodes_stats(exported)  # as LeRobot reads them
    for i, length in enumerate(LENGTHS):
        actions = np.stack([s.executed.vector for s in steps(length, i)]).astype(np.float64)
        for key in ("min", "max", "mean", "std"):
            np.testing.assert_allclose(stats[i]["action"][key], getattr(np, key)(actions, axis=0))
        assert stats[i]["action"]["count"].tolist() == [length]
        assert stats[i][COLOUR[1]]["mean"].shape == (3, 1, 1)
        assert set(stats[i]["action"]) == {"min", "max", "mean", "std", "count"}


@pytest.mark.slow
def test_lerobots_converter_turns_v21_into_the_dataset_it_came_from(
    dataset: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    convert_dataset("local/v21", root=exported, push_to_hub=False)
    theirs: Any = LeRobotDataset("local/v21", root=exported, video_backend="pyav")
    ours: Any = LeRobotDataset("local/ours", root=dataset, video_backend="pyav")
    assert (theirs.num_episodes, len(theirs), theirs.fps) == (3, 28, 10)
    assert theirs.meta.robot_type == ours.meta.robot_type
    assert theirs.meta.features["action"]["names"] == ours.meta.features["action"]["names"]
    for i in range(28):
        a, b = ours[i], theirs[i]
        assert a["task"] == b["task"]
        assert set(a) - set(b) == {"observation.images.head_depth", "observation.images.front_depth"}
        for name in b:
            if name != "task":
                assert np.allclose(a[name], b[name], rtol=0, atol=1e-6), (i, name)


def test_episodes_that_share_files_are_cut_out(dataset: Path, tmp_path: Path, steps: Steps) -> None:
    aggregate_datasets(["local/a"], "local/b", roots=[dataset], aggr_root=tmp_path / "shared")
    shared = open_dataset(tmp_path / "shared")
    aggregated = [e.videos[COLOUR[0]].path for e in shared.episodes]
    assert len(set(aggregated)) == 1
    export_lerobot21(shared, shared.episodes, tmp_path / "v21")
    column = shared.schema.columns[COLOUR[0]]
    for i, length in enumerate(LENGTHS):
        path = tmp_path / f"v21/videos/chunk-000/{COLOUR[0]}/episode_{i:06d}.mp4"
        images = read_frames(path, column, 10, first=0, count=length).astype(float)
        recorded = np.stack([s.obs.frames["head"].rgb for s in steps(length, i)])
        assert np.abs(images - recorded).mean() < 8


def test_the_command_exports_what_was_not_discarded_or_what_is_asked_for(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    relabel_all(dataset, [0], "discarded", {}, author="ada", reason="a person in the picture")

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["armflow", "data", "export", str(dataset), *arguments])
        cli.main()
        return " ".join(capsys.readouterr().out.split())

    assert "2 of 3 episodes" in run("--format", "lerobot-v2.1", "--out", str(tmp_path / "a"))
    assert "1 of 3 episodes" in run("--format", "hdf5", "--out", str(tmp_path / "b"), "--outcomes", "failure")
    assert [e["length"] for e in lines(tmp_path / "a/meta/episodes.jsonl")] == [8, 9]
    with pytest.raises(SystemExit):
        run("--format", "hdf5", "--out", str(tmp_path / "b"))
    assert "exists; name a folder that does not" in " ".join(capsys.readouterr().err.split())
