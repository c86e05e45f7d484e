"""Files as ALOHA, robomimic and DROID write them become episodes of ours: values, images, labels, and what is absent."""

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
from armflow import cli
from armflow.datasets.check import check_dataset
from armflow.datasets.episodes import load_episodes, load_images, open_dataset
from armflow.datasets.import_data import import_episodes
from armflow.datasets.import_source import SourceMap
from armflow.datasets.schema import Column
from armflow.datasets.video import encode
from armflow.robot.errors import DataError, SchemaMismatch
from armflow.robot.fr3 import SPEC
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from numpy.typing import NDArray

N, SIZE = 25, (32, 48)
CAMERAS = {"head": "cam_high"}
ALOHA = SourceMap(SPEC, 50, CAMERAS, "open the drawer", "success", (0.0, 1.0), (0.0, 1.0))
ROBOMIMIC = SourceMap(SPEC, 20, {"head": "agentview_image"}, "lift", None, (0.0, 0.04), (1.0, -1.0))
DROID = SourceMap(SPEC, 15, {"wrist": "wrist", "left": "22"}, "", None, (1.0, 0.0), (1.0, 0.0))


def joints(n: int = N) -> NDArray[np.float32]:
    """(n, 7) a motion within the arm's range, rad."""
    home = np.array([0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785])
    return (home + 0.2 * np.sin(np.arange(n)[:, None] / 8 + np.arange(7))).astype(np.float32)


def images(n: int = N) -> NDArray[np.uint8]:
    """(n, h, w, 3) a red square that wanders over blue."""
    found = np.zeros((n, *SIZE, 3), np.uint8)
    found[..., 2] = 160
    for i in range(n):
        found[i, 8:16, i : i + 8] = (220, 20, 20)
    return found


def opening() -> NDArray[np.float32]:
    return np.linspace(0, 1, N, dtype=np.float32)


def write_aloha(path: Path, changes: Mapping[str, Any] | None = None, *, jpeg: bool = False, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = np.column_stack([joints() + 0.01 * seed, opening()])
    arrays = {
        "observations/qpos": state,
        "observations/qvel": np.gradient(state, axis=0) * 50,
        "action": np.concatenate([state[1:], state[-1:]]),
        "observations/images/cam_high": images(),
    } | dict(changes or {})
    if jpeg:
        files = [cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1] for image in images()]
        padded = np.zeros((N, max(map(len, files))), np.uint8)
        for row, file in zip(padded, files, strict=True):
            row[: len(file)] = file
        arrays["observations/images/cam_high"] = padded
    with h5py.File(path, "w") as out:
        for name, values in arrays.items():
            out[name] = values
    return path


def write_robomimic(path: Path, **changes: Any) -> Path:
    with h5py.File(path, "w") as out:
        for demo in ("demo_10", "demo_2"):
            arrays = {
                "obs/robot0_joint_pos": joints() + 0.01 * len(demo),
                "obs/robot0_gripper_qpos": np.column_stack([0.04 * opening(), -0.04 * opening()]),
                "obs/agentview_image": images(),
                "actions": np.random.default_rng(0).uniform(-1, 1, (N, 7)),
                "rewards": (np.arange(N) == N - 1) * (demo == "demo_2"),
            } | changes
            for name, values in arrays.items():
                out[f"data/{demo}/{name}"] = values
    return path


def write_droid(folder: Path, frames: int = N) -> Path:
    (folder / "recordings/MP4").mkdir(parents=True)
    with h5py.File(folder / "trajectory.h5", "w") as out:
        for name, values in {
            "observation/robot_state/joint_positions": joints(),
            "observation/robot_state/gripper_position": 1 - opening(),
            "observation/robot_state/joint_velocities": np.zeros((N, 7)),
            "observation/robot_state/joint_torques_computed": np.ones((N, 7)),
            "action/joint_position": np.concatenate([joints()[1:], joints()[-1:]]),
            "action/gripper_position": 1 - opening(),
        }.items():
            out[name] = values
    for serial in ("11", "22"):
        encode(folder / f"recordings/MP4/{serial}.mp4", [images(frames)], Column("video", (*SIZE, 3)), 15)
    metadata = {"wrist_cam_serial": "11", "success": True, "current_task": "wipe the table"}
    (folder / "metadata_x.json").write_text(json.dumps(metadata))
    return folder


def assert_shows(root: Path, camera: str, tolerance: float = 6) -> None:
    found = open_dataset(root)
    assert np.abs(load_images(found, found.episodes[0], camera).astype(float) - images()).mean() < tolerance


@pytest.mark.parametrize("jpeg", [False, True])
def test_aloha_files_with_raw_and_with_compressed_images(tmp_path: Path, jpeg: bool) -> None:
    for i in (2, 10):
        write_aloha(tmp_path / f"source/episode_{i}.hdf5", jpeg=jpeg, seed=i)
    report = import_episodes("aloha", [tmp_path / "source"], tmp_path / "data", ALOHA)
    assert (report.imported, report.rejected) == (2, ())
    found = open_dataset(tmp_path / "data")
    first = load_episodes(found)[0]
    np.testing.assert_allclose(first.state, np.column_stack([joints() + 0.02, opening()]), atol=1e-6)
    np.testing.assert_array_equal(first.action[:-1], first.state[1:])
    assert first.columns["observation.velocity"].shape == (N, 7)
    assert_shows(tmp_path / "data", "head")
    assert (found.schema.fps, found.schema.robot, found.schema.action_names) == (50, "fr3", SPEC.action_names)
    label = found.episodes[0].label
    assert label is not None and (label.outcome, label.task) == ("success", "open the drawer")
    assert "episode_2.hdf5" in label.notes and "observation.effort, depth, capture times" in label.notes
    absent = {"observation.effort", "action.requested", "capture_time.arm", "frame_number.head", "control_mode"}
    assert not absent & set(found.schema.columns)
    assert check_dataset(tmp_path / "data") == []
    stock: Any = LeRobotDataset("local/x", root=tmp_path / "data", video_backend="pyav")
    assert stock[30]["task"] == "open the drawer" and stock[30]["observation.images.head"].shape == (3, *SIZE)


def test_images_that_are_stored_blue_first_are_turned(tmp_path: Path) -> None:
    write_aloha(tmp_path / "e.hdf5", {"observations/images/cam_high": images()[..., ::-1]})
    import_episodes("aloha", [tmp_path / "e.hdf5"], tmp_path / "data", replace(ALOHA, blue_first=True))
    assert_shows(tmp_path / "data", "head")


def test_robomimic_demonstrations_with_tool_actions_take_the_next_state(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "demos.hdf5")
    with pytest.raises(
        DataError, match=r"demo_2/actions has 7 numbers per frame, expected 7 joints and a gripper.*next-state"
    ):
        import_episodes("robomimic", [path], tmp_path / "no", ROBOMIMIC)
    cfg = replace(ROBOMIMIC, actions="next-state")
    assert import_episodes("robomimic", [path], tmp_path / "data", cfg).imported == 2
    found = open_dataset(tmp_path / "data")
    first = load_episodes(found)[0]
    np.testing.assert_allclose(first.state[:, -1], opening(), atol=1e-6)
    np.testing.assert_array_equal(first.action[:-1], first.state[1:])
    assert [e.label.outcome for e in found.episodes if e.label] == ["success", "failure"]  # demo_2 before demo_10
    assert_shows(tmp_path / "data", "head")
    assert "joints of the next frame, not commands" in (
        found.episodes[0].label.notes if found.episodes[0].label else ""
    )


def test_robomimic_joint_targets_are_taken_as_recorded(tmp_path: Path) -> None:
    targets = np.column_stack([joints() + 0.02, np.where(opening() > 0.5, -1, 1)])
    path = write_robomimic(tmp_path / "demos.hdf5", actions=targets)
    import_episodes("robomimic", [path], tmp_path / "data", ROBOMIMIC)
    first = load_episodes(open_dataset(tmp_path / "data"))[0]
    np.testing.assert_allclose(
        first.action, np.column_stack([joints() + 0.02, (opening() > 0.5).astype(np.float32)]), atol=1e-6
    )


def test_droid_folders_with_their_videos_and_metadata(tmp_path: Path) -> None:
    write_droid(tmp_path / "lab/episode")
    assert import_episodes("droid", [tmp_path / "lab"], tmp_path / "data", DROID).imported == 1
    found = open_dataset(tmp_path / "data")
    (episode,) = load_episodes(found)
    np.testing.assert_allclose(episode.state, np.column_stack([joints(), opening()]), atol=1e-6)
    np.testing.assert_array_equal(episode.columns["observation.effort"], np.ones((N, 7)))
    label = episode.ref.label
    assert label is not None and (label.outcome, label.task) == ("success", "wipe the table")
    assert found.schema.cameras == ("wrist", "left")
    assert_shows(tmp_path / "data", "wrist", 8)


@pytest.mark.parametrize("frames", [N - 1, N + 1])
def test_an_episode_without_an_image_for_every_row_is_left_out_and_named(tmp_path: Path, frames: int) -> None:
    write_droid(tmp_path / "lab/bad", frames)
    write_droid(tmp_path / "lab/good")
    report = import_episodes("droid", [tmp_path / "lab"], tmp_path / "data", DROID)
    assert report.imported == 1 and "images of wrist" in report.rejected[0] and "bad" in report.rejected[0]


def test_importing_again_adds_nothing_and_new_files_are_added(tmp_path: Path) -> None:
    write_aloha(tmp_path / "source/episode_0.hdf5")
    import_episodes("aloha", [tmp_path / "source"], tmp_path / "data", ALOHA)
    write_aloha(tmp_path / "source/episode_1.hdf5", seed=1)
    import_episodes("aloha", [tmp_path / "source"], tmp_path / "data", ALOHA)
    assert len(open_dataset(tmp_path / "data").episodes) == 2
    assert not (tmp_path / "data.import").exists()


@pytest.mark.parametrize(
    ("changes", "cfg", "says"),
    [
        ({"observations/qpos": np.zeros((N, 14))}, ALOHA, "14 numbers per frame, expected 7 joints and a gripper of one arm"),
        ({"observations/qpos": np.zeros((N, 7))}, ALOHA, "7 numbers per frame"),
        ({"observations/qpos": np.full((N, 8), 0.5)}, replace(ALOHA, gripper=(0.0, 0.08)), "do not lie between 0.0 .closed"),
        ({}, replace(ALOHA, cameras={"head": "cam_low"}), "no array observations/images/cam_low; beside it there is: cam_high"),
        ({}, replace(ALOHA, outcome=None), "does not say how it ended; say so with --outcome"),
        ({}, replace(ALOHA, task=""), "has no instruction; give it with --task"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_over_is_an_error_that_says_why(
    tmp_path: Path, changes: dict[str, Any], cfg: SourceMap, says: str
) -> None:
    path = write_aloha(tmp_path / "e.hdf5", changes)
    with pytest.raises(DataError, match=says):
        import_episodes("aloha", [path], tmp_path / "data", cfg)
    assert not (tmp_path / "data.import").exists()


def test_other_images_than_the_dataset_has_are_a_schema_mismatch(tmp_path: Path) -> None:
    import_episodes("aloha", [write_aloha(tmp_path / "a.hdf5")], tmp_path / "data", ALOHA)
    other = write_aloha(
        tmp_path / "b.hdf5", {"observations/images/cam_high": np.zeros((N, 64, 64, 3), np.uint8)}, seed=1
    )
    with pytest.raises(SchemaMismatch, match="found size 32x48x3, expected 64x64x3"):
        import_episodes("aloha", [other], tmp_path / "data", ALOHA)
    assert len(open_dataset(tmp_path / "data").episodes) == 1


def test_the_command_takes_the_mapping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_aloha(tmp_path / "e.hdf5")
    text = f"data import {path} --format aloha --out {tmp_path / 'data'} --cameras head cam_high --task t --outcome failure"
    monkeypatch.setattr(sys, "argv", ["armflow", *text.split()])
    cli.main()
    assert "1 imported, 0 rejected" in capsys.readouterr().out
    label = open_dataset(tmp_path / "data").episodes[0].label
    assert label is not None and (label.outcome, label.task) == ("failure", "t")
