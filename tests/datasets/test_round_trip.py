"""Recorded, committed, and read again: by stock LeRobot and by our own reader."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from armflow.datasets.commit import commit_spool
from armflow.datasets.episodes import load_depth_mm, load_episodes, load_images, open_dataset
from armflow.datasets.layout import DATA_PATH, EPISODES_PATH, TASKS_PATH, VIDEO_PATH
from armflow.datasets.schema import Schema
from armflow.datasets.video import DEPTH_CODE_MAX, to_codes, video_info
from armflow.robot.control import Step
from lerobot.configs import DepthEncoderConfig, RGBEncoderConfig
from lerobot.datasets import utils as lerobot_utils
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.dataset_tools import delete_episodes
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.video_utils import get_video_info

RGB_TOLERANCE = 6  # mean grey levels on the synthetic images, which have hard edges

Steps = Callable[[int, int], list[Step]]


def open_stock(root: Path) -> Any:  # its __getitem__ is annotated as that of a sequence
    # Its default decoder needs FFmpeg's shared libraries; PyAV brings its own.
    return LeRobotDataset("local/test", root=root, video_backend="pyav")


def test_stock_lerobot_reads_names_values_and_tasks(dataset: Path, steps: Steps, schema: Schema) -> None:
    stock = open_stock(dataset)
    assert (stock.num_episodes, len(stock), stock.fps) == (3, 28, 10)
    assert stock.meta.features["action"]["names"] == list(schema.action_names)
    recorded = [*steps(11, 0), *steps(8, 1), *steps(9, 2)]
    for i in (0, 10, 11, 18, 27):
        item, step = stock[i], recorded[i]
        assert np.array_equal(item["observation.state"], step.obs.arm.vector)
        assert np.array_equal(item["action"], step.executed.vector)
        assert np.array_equal(item["action.requested"], step.requested.vector)
        assert np.allclose(item["observation.effort"], step.obs.arm.effort)
        assert item["safety_flags"] == int(step.flags)
        assert item["chunk_step"] == step.decision.chunk_step
        assert item["frame_number.head"] == step.obs.frames["head"].frame_number
        assert item["capture_time.arm"] == pytest.approx(step.obs.arm.t)
    assert [stock[i]["task"] for i in (0, 11, 27)] == ["stack the bowls", "stack the bowls", "pick the peach"]
    assert [bool(stock[i]["next.success"]) for i in (9, 10, 18, 27)] == [False, True, False, True]
    assert [float(stock[i]["next.reward"]) for i in (9, 10, 18, 27)] == [0, 1, 0, 1]
    assert [bool(stock[i]["next.done"]) for i in (9, 10, 11, 18)] == [False, True, False, True]


def test_stock_lerobot_reads_both_images_of_both_cameras(dataset: Path, steps: Steps) -> None:
    stock = open_stock(dataset)
    recorded = [*steps(11, 0), *steps(8, 1)]
    for i in (0, 1, 10, 11, 18):
        for camera in ("head", "front"):
            frame, item = recorded[i].obs.frames[camera], stock[i]
            rgb = item[f"observation.images.{camera}"].permute(1, 2, 0).numpy() * 255
            depth = item[f"observation.images.{camera}_depth"].numpy()[0]
            assert np.abs(rgb - frame.rgb).mean() < RGB_TOLERANCE
            assert np.array_equal(depth, frame.depth_mm)  # exact, and 0 stays 0


def test_our_reader_agrees_with_what_was_recorded(dataset: Path, steps: Steps) -> None:
    opened = open_dataset(dataset)
    arrays, recorded = load_episodes(opened)[1], steps(8, 1)
    assert np.array_equal(arrays.state, np.stack([s.obs.arm.vector for s in recorded]))
    assert np.array_equal(arrays.columns["capture_time.arm"], [s.obs.arm.t for s in recorded])  # float64, not rounded
    rgb = load_images(opened, arrays.ref, "front", stride=3)
    depth = load_depth_mm(opened, arrays.ref, "front")
    assert rgb.shape == (3, 32, 48, 3)
    for image, step in zip(rgb, recorded[::3], strict=True):
        assert np.abs(image.astype(float) - step.obs.frames["front"].rgb).mean() < RGB_TOLERANCE
    assert np.array_equal(depth, np.stack([s.obs.frames["front"].depth_mm for s in recorded]))


def test_depth_beyond_the_codes_becomes_no_return() -> None:
    depth = np.array([[0, 1, 600, DEPTH_CODE_MAX, DEPTH_CODE_MAX + 1, 65535]], np.uint16)
    assert to_codes(depth).tolist() == [[0, 1, 600, DEPTH_CODE_MAX, 0, 0]]


def test_info_json_is_what_lerobot_would_write(dataset: Path, schema: Schema, tmp_path: Path) -> None:
    ours = json.loads((dataset / "meta/info.json").read_text())
    features = {name: column.to_feature() for name, column in schema.columns.items()}
    stock = LeRobotDatasetMetadata.create("local/test", 10, features, robot_type="synthetic", root=tmp_path / "stock")
    theirs = stock.info.to_dict()
    assert list(ours) == list(theirs)
    assert list(ours["features"]) == list(theirs["features"])
    for name, feature in theirs["features"].items():
        mine = {key: value for key, value in ours["features"][name].items() if key != "info"}
        assert mine == {key: value for key, value in feature.items() if key != "info"}


def test_paths_are_lerobots() -> None:
    assert DATA_PATH == lerobot_utils.DEFAULT_DATA_PATH
    assert VIDEO_PATH == lerobot_utils.DEFAULT_VIDEO_PATH
    assert EPISODES_PATH == lerobot_utils.DEFAULT_EPISODES_PATH
    assert TASKS_PATH == lerobot_utils.DEFAULT_TASKS_PATH


@pytest.mark.parametrize("name", ["observation.images.head", "observation.images.head_depth"])
def test_video_info_is_what_lerobot_finds_in_the_file(dataset: Path, schema: Schema, name: str) -> None:
    column = schema.columns[name]
    ours = video_info(column, schema.fps)
    config = DepthEncoderConfig if column.depth else RGBEncoderConfig
    encoder = config.from_video_info(ours)  # LeRobot checks every option against the encoder
    encoder.crf = ours["video.crf"]
    theirs = get_video_info(dataset / f"videos/{name}/chunk-000/file-000.mp4", encoder)
    assert {key: ours[key] for key in theirs} == theirs
    assert set(ours) - set(theirs) <= {"depth_unit"}  # added by LeRobot while recording


def test_statistics_for_lerobots_policies_are_pooled_over_all_frames(dataset: Path, steps: Steps) -> None:
    stats = open_stock(dataset).meta.stats
    assert stats is not None
    actions = np.stack([s.executed.vector for s in [*steps(11, 0), *steps(8, 1), *steps(9, 2)]])
    assert np.allclose(stats["action"]["q01"], np.quantile(actions, 0.01, axis=0), atol=1e-6)
    assert np.allclose(stats["action"]["q99"], np.quantile(actions, 0.99, axis=0), atol=1e-6)
    assert np.allclose(stats["action"]["mean"], actions.mean(axis=0), atol=1e-6)
    assert stats["observation.images.head"]["mean"].shape == (3, 1, 1)


def test_we_append_after_lerobots_tools_have_edited_the_dataset(
    dataset: Path, record: Callable[..., Path], spool: Path
) -> None:
    shorter = delete_episodes(
        open_stock(dataset), [1], output_dir=dataset.with_name("shorter"), repo_id="local/shorter"
    )
    assert shorter.num_episodes == 2
    record(6, 5)
    commit_spool(spool, dataset.with_name("shorter"))
    assert open_stock(dataset.with_name("shorter")).num_episodes == 3
    assert [len(e) for e in load_episodes(open_dataset(dataset.with_name("shorter")))] == [11, 9, 6]
