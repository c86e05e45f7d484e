"""Merging keeps every frame, label and calibration, pools statistics exactly, and never touches a source."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from armflow.datasets import assemble as assembling
from armflow.datasets import merge as merging
from armflow.datasets.check import check_dataset
from armflow.datasets.commit import commit_spool
from armflow.datasets.episodes import load_depth_mm, load_episodes, load_images, open_dataset
from armflow.datasets.labels import EpisodeLabel, read_entries
from armflow.datasets.merge import merge
from armflow.datasets.relabel import relabel
from armflow.datasets.schema import Schema
from armflow.datasets.spool import SpoolCfg, SpoolWriter
from armflow.datasets.synthetic import SyntheticCfg, synthetic_arm, synthetic_schema, synthetic_steps
from armflow.robot.control import Step
from armflow.robot.errors import DataError, SchemaMismatch
from lerobot.datasets.aggregate import aggregate_datasets
from lerobot.datasets.lerobot_dataset import LeRobotDataset

SUCCESS = EpisodeLabel("success", terminated=True)
TIMEOUT = EpisodeLabel("failure", terminated=False, failure_tag="dropped")

Steps = Callable[[int, int], list[Step]]


@pytest.fixture
def other(tmp_path: Path, steps: Steps, schema: Schema) -> Path:
    """Two more episodes, of 7 and 12 frames, on a task of the first dataset and a new one, with a calibration."""
    spool, root = tmp_path / "other.spool", tmp_path / "other"
    for count, seed, task in ((7, 3, "pick the peach"), (12, 4, "open the drawer")):
        writer = SpoolWriter(spool, schema, task=task, calibration={"head": '{"K": 1}'}, cfg=SpoolCfg(sync=False))
        for step in steps(count, seed):
            writer.add(step)
        writer.save(TIMEOUT)
    commit_spool(spool, root)
    return root


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def assert_holds(root: Path, recorded: list[list[Step]]) -> None:
    found = open_dataset(root)
    for arrays, steps in zip(load_episodes(found), recorded, strict=True):
        assert np.array_equal(arrays.action, np.stack([s.executed.vector for s in steps]))
        depth = load_depth_mm(found, arrays.ref, "front")
        assert np.array_equal(depth, np.stack([s.obs.frames["front"].depth_mm for s in steps]))
        rgb = load_images(found, arrays.ref, "head").astype(float)
        assert np.abs(rgb - np.stack([s.obs.frames["head"].rgb for s in steps])).mean() < 6


def test_every_frame_of_every_source_is_there_and_the_sources_are_untouched(
    dataset: Path, other: Path, steps: Steps, tmp_path: Path
) -> None:
    before = content(dataset), content(other)
    report = merge([dataset, other], tmp_path / "all")
    assert report.episodes == 5 and report.duplicates == ()
    assert_holds(tmp_path / "all", [steps(n, seed) for seed, n in enumerate((11, 8, 9, 7, 12))])
    assert check_dataset(tmp_path / "all", arm=synthetic_arm()) == []
    assert (content(dataset), content(other)) == before

    stock: Any = LeRobotDataset("local/all", root=tmp_path / "all", video_backend="pyav")
    assert (stock.num_episodes, len(stock)) == (5, 47)
    assert stock[46]["task"] == "open the drawer" and stock[27]["task"] == "pick the peach"
    assert np.array_equal(stock[40]["action"], steps(12, 4)[5].executed.vector)


def test_quantiles_are_those_of_all_frames_of_all_sources(
    dataset: Path, other: Path, steps: Steps, tmp_path: Path
) -> None:
    merge([dataset, other], tmp_path / "all")
    frames = [s for seed, n in enumerate((11, 8, 9, 7, 12)) for s in steps(n, seed)]
    stats = json.loads((tmp_path / "all/meta/stats.json").read_text())
    for name, values in (
        ("action", np.stack([s.executed.vector for s in frames])),
        ("observation.effort", np.stack([s.obs.arm.effort for s in frames]).astype(np.float32)),
    ):
        for key, share in (("q01", 0.01), ("q50", 0.5), ("q99", 0.99)):
            assert np.array_equal(stats[name][key], np.quantile(values.astype(np.float64), share, axis=0))


def test_labels_come_with_their_history_and_calibrations_and_origin_are_kept(
    dataset: Path, other: Path, tmp_path: Path
) -> None:
    relabel(other, 0, SUCCESS, author="ada", reason="it did work")
    merge([dataset, other], tmp_path / "all")
    history = [(e.episode_index, e.label.outcome, e.author) for e in read_entries(tmp_path / "all")]
    assert history == [(0, "success", ""), (1, "failure", ""), (2, "success", ""), (3, "failure", ""), (3, "success", "ada"), (4, "failure", "")]  # fmt: skip
    assert len(list((tmp_path / "all/meta/armflow/calibration").glob("*.json"))) == 1
    lineage = json.loads((tmp_path / "all/meta/armflow/lineage.json").read_text())
    assert [(s["name"], s["episodes"]) for s in lineage["sources"]] == [("dataset", [0, 1, 2]), ("other", [0, 1])]


def test_what_was_merged_can_be_merged_and_recorded_into(
    dataset: Path, other: Path, tmp_path: Path, record: Callable[..., Path], spool: Path, steps: Steps
) -> None:
    merge([dataset, other], tmp_path / "all")
    record(6, 9)
    commit_spool(spool, tmp_path / "all")
    assert_holds(tmp_path / "all", [steps(n, s) for s, n in ((0, 11), (1, 8), (2, 9), (3, 7), (4, 12), (9, 6))])
    lineage = json.loads((tmp_path / "all/meta/armflow/lineage.json").read_text())
    assert len(lineage["sources"]) == 2


def test_a_dataset_that_lerobot_put_into_shared_files_is_merged_too(
    dataset: Path, other: Path, tmp_path: Path, steps: Steps
) -> None:
    aggregate_datasets(["local/a", "local/b"], "local/ab", roots=[dataset, other], aggr_root=tmp_path / "shared")
    extra = shutil.copytree(other, tmp_path / "extra")
    report = merge([tmp_path / "shared", extra], tmp_path / "all", skip_duplicates=True)
    assert report.episodes == 5 and [copy[1] for copy, _ in report.duplicates] == [0, 1]
    assert_holds(tmp_path / "all", [steps(n, seed) for seed, n in enumerate((11, 8, 9, 7, 12))])
    stock: Any = LeRobotDataset("local/all", root=tmp_path / "all", video_backend="pyav")
    assert np.array_equal(stock[46]["observation.images.head_depth"][0], steps(12, 4)[11].obs.frames["head"].depth_mm)


def test_an_episode_that_is_there_twice_is_named(dataset: Path, other: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(dataset, tmp_path / "copy")
    with pytest.raises(DataError, match=r"3 episodes .* more than once:\n  - .*copy episode 0 = .*dataset episode 0"):
        merge([dataset, other, copy], tmp_path / "all")
    assert not (tmp_path / "all").exists()
    assert merge([dataset, other, copy], tmp_path / "all", skip_duplicates=True).episodes == 5


def test_different_schemas_are_explained(dataset: Path, tmp_path: Path) -> None:
    cfg = SyntheticCfg(fps=20, cameras=("head",))
    writer = SpoolWriter(tmp_path / "s", synthetic_schema(cfg), task="t", cfg=SpoolCfg(sync=False))
    for step in synthetic_steps(3, cfg, np.random.default_rng(0)):
        writer.add(step)
    writer.save(SUCCESS)
    commit_spool(tmp_path / "s", tmp_path / "b")
    with pytest.raises(SchemaMismatch, match=r"fps: found 20, expected 10\n(.*\n)*.*camera front .* is missing"):
        merge([dataset, tmp_path / "b"], tmp_path / "all")
    other_codes = shutil.copytree(dataset, tmp_path / "codes")
    info = json.loads((other_codes / "meta/info.json").read_text())
    info["features"]["observation.images.head_depth"]["info"]["video.depth_max"] = 10.0
    (other_codes / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(SchemaMismatch, match=r"head_depth video.depth_max: 4.095 and 10.0"):
        merge([dataset, other_codes], tmp_path / "all")


def test_a_merge_that_is_killed_leaves_nothing_but_the_sources_and_can_be_repeated(
    dataset: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(assembling, "write_pooled_stats", killed)
        patch.setattr("shutil.rmtree", lambda *_, **__: None)  # a real kill cleans nothing up
        with pytest.raises(Killed):
            merge([dataset, other], tmp_path / "all")
    assert not (tmp_path / "all").exists() and (tmp_path / ".all.new/meta/info.json").exists()
    assert merging.merge([dataset, other], tmp_path / "all").episodes == 5
    assert not (tmp_path / ".all.new").exists()
    with pytest.raises(DataError, match="exists"):
        merge([dataset, other], tmp_path / "all")
