"""Every defect is put into a sound dataset and has to be found; a sound one has no findings."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from armflow import cli
from armflow.datasets.appender import CommitCfg
from armflow.datasets.check import check_dataset
from armflow.datasets.check_images import check_depth_scale
from armflow.datasets.commit import commit_spool
from armflow.datasets.findings import Finding
from armflow.datasets.labels import EpisodeLabel
from armflow.datasets.repair import repair
from armflow.datasets.schema import Schema
from armflow.datasets.spool import SpoolCfg, SpoolWriter
from armflow.datasets.synthetic import SyntheticCfg, synthetic_arm, synthetic_steps
from armflow.datasets.video import encode
from armflow.robot.control import Step
from armflow.robot.types import ArmCommand, ArmState, SafetyFlag
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from numpy.typing import NDArray

SUCCESS = EpisodeLabel("success", terminated=True)
FRAMES = 40

Edit = Callable[[int, Step, list[Step]], Step]
"""Number, step and all steps of an episode to the step that is recorded instead."""
Make = Callable[..., Path]


def moving(seed: int, cfg: SyntheticCfg) -> list[Step]:
    """An arm that follows its actions one frame later, seen by cameras."""
    rng, time = np.random.default_rng(seed), np.arange(FRAMES + 1) / cfg.fps
    q = 0.4 * np.sin(time[:, None] * (1 + 0.1 * np.arange(7)) + rng.uniform(0, 6, 7))
    steps = []
    for i, step in enumerate(synthetic_steps(FRAMES, cfg, rng)):
        arm = ArmState(step.obs.t, q[i], step.obs.arm.dq, step.obs.arm.effort, 0.5)
        target = ArmCommand(q[i + 1] + rng.normal(0, 0.001, 7), 0.5)
        obs = replace(step.obs, arm=arm)
        steps.append(replace(step, obs=obs, requested=target, executed=target, flags=SafetyFlag.NONE))
    return steps


@pytest.fixture
def make(tmp_path: Path, schema: Schema, cfg: SyntheticCfg) -> Make:
    """make(edit): three episodes of 40 frames; `edit` changes what is recorded of the last one."""

    def _make(edit: Edit | None = None, calibration: dict[str, str] | None = None) -> Path:
        spool, root = tmp_path / "made.spool", tmp_path / "made"
        for seed in range(3):
            writer = SpoolWriter(spool, schema, task="t", calibration=calibration, cfg=SpoolCfg(sync=False))
            steps = moving(seed, cfg)
            for i, step in enumerate(steps):
                writer.add(edit(i, step, steps) if edit is not None and seed == 2 else step)
            writer.save(SUCCESS)
        commit_spool(spool, root, cfg=CommitCfg(sync=False))
        return root

    return _make


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes without a defect. Shared: tests change a copy."""
    folder, cfg = tmp_path_factory.mktemp("sound"), SyntheticCfg()
    from armflow.datasets.synthetic import synthetic_schema

    for seed in range(3):
        writer = SpoolWriter(folder / "spool", synthetic_schema(cfg), task="t", cfg=SpoolCfg(sync=False))
        for step in moving(seed, cfg):
            writer.add(step)
        writer.save(SUCCESS)
    commit_spool(folder / "spool", folder / "data", cfg=CommitCfg(sync=False))
    return folder / "data"


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "copy")


def check(root: Path, *, images: bool = False) -> list[Finding]:
    return check_dataset(root, arm=synthetic_arm(), images=images)


def only(found: list[Finding], name: str, episode: int | None = 2) -> Finding:
    """The one kind of finding there is."""
    assert {(f.check, f.episode) for f in found} == {(name, episode)}, found
    return found[0]


def edit_rows(root: Path, episode: int, **columns: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    """Change columns of an episode's file; dots in names are written as double underscores."""
    path = root / f"data/chunk-000/file-{episode:03d}.parquet"
    table = pq.ParquetFile(path).read()
    for name, change in columns.items():
        name = name.replace("__", ".")
        place, values = table.column_names.index(name), np.array(table[name].to_pylist())
        field = table.schema.field(place)
        table = table.set_column(place, field, pa.array(change(values).tolist(), field.type))
    pq.write_table(table, path)


def shifted(step: Step, **changes: Any) -> Step:
    return replace(step, obs=replace(step.obs, **changes))


# --- nothing wrong


def test_a_sound_dataset_has_no_findings(sound: Path, dataset: Path) -> None:
    assert check(sound, images=True) == []
    assert check(dataset, images=True) == []  # short episodes of random motion


@pytest.mark.slow
def test_what_the_twin_records_has_no_findings(tmp_path: Path) -> None:
    from armflow.robot.rig import load_rig
    from armflow.teleop.collect import CollectCfg, Job, Scripted, collect

    rig = load_rig().with_image_size(64, 48)
    collect(rig, [Job("pick_peach", 11)], Scripted(), tmp_path / "demos", CollectCfg(workers=1))
    assert check_dataset(tmp_path / "demos") == []


def test_an_unknown_arm_is_said_and_not_guessed(sound: Path) -> None:
    (note,) = check_dataset(sound, images=False)
    assert (note.severity, note.check) == ("note", "arm")


# --- time


def test_a_skipped_tick_is_found(make: Make) -> None:
    def late(i: int, step: Step, _: list[Step]) -> Step:
        t = step.obs.t + (0.35 if i >= 20 else 0)
        frames = {name: replace(frame, t=t - 0.01) for name, frame in step.obs.frames.items()}
        return shifted(step, t=t, arm=replace(step.obs.arm, t=t), frames=frames)

    gap = only(check(make(late)), "gaps")
    assert "longest 0.45 s after frame 19" in gap.found


def test_another_rate_than_stated_is_found(copy: Path) -> None:
    edit_rows(
        copy, 2, **{f"capture_time__{what}": lambda t: t[0] + (t - t[0]) * 1.3 for what in ("arm", "head", "front")}
    )
    assert "7.7 Hz" in next(f for f in check(copy) if f.check == "rate").found


def test_jitter_is_found(copy: Path) -> None:
    wobble = np.resize([0, 0.04], FRAMES)
    edit_rows(copy, 2, **{f"capture_time__{what}": lambda t: t + wobble for what in ("arm", "head", "front")})
    assert any(f.check == "jitter" and f.episode == 2 for f in check(copy))


def test_a_camera_on_another_clock_is_found(copy: Path) -> None:
    edit_rows(copy, 2, capture_time__head=lambda t: t - 50)
    assert "head: 50.01 s" in next(f for f in check(copy) if f.check == "image age").found


@pytest.mark.parametrize(
    ("numbers", "name", "severity"),
    [
        (lambda n: n + 5 * (n > 20), "missing frames", "warning"),
        (lambda n: np.minimum(n, 20), "repeated frames", "error"),
        (lambda n: np.where(n > 20, n - 30, n), "frame numbers", "error"),
    ],
)
def test_dropped_repeated_and_restarted_frame_numbers_are_found(
    copy: Path, numbers: Callable[[NDArray[Any]], NDArray[Any]], name: str, severity: str
) -> None:
    edit_rows(copy, 2, frame_number__front=numbers)
    found = next(f for f in check(copy) if f.check != "statistics")
    assert (found.check, found.severity, found.episode) == (name, severity, 2)
    assert found.found.startswith("front: ")


# --- images


@pytest.mark.parametrize("stream", ["head", "head_depth"])
def test_a_frozen_camera_is_found(copy: Path, schema: Schema, cfg: SyntheticCfg, stream: str) -> None:
    frames = [step.obs.frames["head"] for step in moving(2, cfg)]
    images = np.stack([f.rgb if stream == "head" else f.depth_mm for f in frames])
    images[10:30] = images[10]
    name = f"observation.images.{stream}"
    encode(copy / f"videos/{name}/chunk-000/file-002.mp4", [images], schema.columns[name], schema.fps)
    frozen = only(check(copy, images=True), "frozen image")
    assert frozen.severity == "error" and "frames 10 to 29" in frozen.found


def test_missing_additional_and_broken_video_is_found_by_decoding(
    copy: Path, schema: Schema, cfg: SyntheticCfg
) -> None:
    name = "observation.images.front"
    images = np.stack([step.obs.frames["front"].rgb for step in moving(2, cfg)])
    path = copy / f"videos/{name}/chunk-000/file-002.mp4"
    for change, said in ((images[:-1], "39 frames"), (np.concatenate([images, images]), "more than 40 frames")):
        encode(path, [change], schema.columns[name], schema.fps)
        frames = only(check(copy, images=True), "frames")
        assert said in frames.found and frames.remedy == "drop"
    path.write_bytes(path.read_bytes()[:1000])
    assert "cannot be decoded" in only(check(copy, images=True), "frames").found
    assert check(copy, images=False) == []


def test_a_depth_scale_ten_times_off_is_found(make: Make) -> None:
    def tenth(_: int, step: Step, __: list[Step]) -> Step:
        frame = step.obs.frames["head"]
        return shifted(step, frames={**step.obs.frames, "head": replace(frame, depth_mm=frame.depth_mm // 10)})

    found = only(check(make(tenth), images=True), "depth scale")
    assert found.found.startswith("head: median depth") and "as in the other episodes" in found.expected


def test_depth_that_contradicts_the_calibration_is_found(make: Make) -> None:
    X_BC = np.diag([1.0, -1.0, -1.0, 1.0])  # looks straight down
    X_BC[2, 3] = 6.0
    found = check(make(calibration={"head": json.dumps({"X_BC": X_BC.tolist()})}), images=True)
    assert {(f.check, f.episode) for f in found} == {("depth scale", i) for i in range(3)}
    assert "about 6000 mm, from the calibrated camera" in found[0].expected


def test_depth_that_is_not_there_is_found(make: Make) -> None:
    def blind(_: int, step: Step, __: list[Step]) -> Step:
        frame = step.obs.frames["front"]
        return shifted(step, frames={**step.obs.frames, "front": replace(frame, depth_mm=0 * frame.depth_mm)})

    assert "front: 100% of pixels" in only(check(make(blind), images=True), "depth").found


# --- values


def test_permuted_joints_are_found(copy: Path) -> None:
    info = json.loads((copy / "meta/info.json").read_text())
    names = info["features"]["action"]["names"]
    names[0], names[1] = names[1], names[0]
    (copy / "meta/info.json").write_text(json.dumps(info))
    error, note = check(copy)
    assert error.check == "joint order" and error.found.startswith("action: joint2.pos, joint1.pos")
    assert (note.severity, note.check) == ("note", "delay")  # what belongs to what is not known


@pytest.mark.parametrize(
    ("column", "change", "check_name"),
    [
        ("action", lambda a: a * [1, 1, 57.3, 1, 1, 1, 1, 1], "range"),
        ("action", lambda a: a + [0, 0, 0, 0, 0, 0, 0, 1], "range"),
        ("observation__state", lambda s: s + np.eye(8)[3] * (np.arange(FRAMES) == 7)[:, None] * 2.5, "jump"),
        ("observation__effort", lambda e: np.where(np.arange(FRAMES)[:, None] == 3, np.nan, e), "not finite"),
    ],
)
def test_values_that_cannot_be_are_found(
    copy: Path, column: str, change: Callable[[NDArray[Any]], NDArray[Any]], check_name: str
) -> None:
    edit_rows(copy, 2, **{column: change})
    assert any(f.check == check_name and f.episode == 2 and f.severity == "error" for f in check(copy))


def test_a_command_that_was_changed_without_a_flag_is_found(make: Make) -> None:
    def changed(i: int, step: Step, _: list[Step]) -> Step:
        return replace(step, requested=ArmCommand(step.requested.q + 0.01 * (i == 5), step.requested.gripper))

    assert "first frame 5" in only(check(make(changed)), "executed action").found


# --- leader and follower


def test_actions_that_are_stored_too_late_in_one_episode_are_found(make: Make) -> None:
    late = make(lambda i, step, steps: replace(step, requested=(a := steps[max(0, i - 5)].executed), executed=a))
    assert "follow the actions by -4 frames" in only(check(late), "delay").found


def test_a_slow_follower_is_found(copy: Path) -> None:
    for episode in range(3):
        edit_rows(copy, episode, **dict.fromkeys(("action", "action__requested"), lambda a: np.roll(a, -6, axis=0)))
    found = [f for f in check(copy) if f.check == "delay"]
    assert len(found) == 7 and "joint1.pos follows its action after 7 frames (0.70 s)" in found[0].found


def test_a_leader_that_is_not_calibrated_to_its_follower_is_found(copy: Path) -> None:
    for episode in range(3):
        edit_rows(copy, episode, **dict.fromkeys(("action", "action__requested"), lambda a: a + 0.08 * np.eye(8)[2]))
    offset = next(f for f in check(copy) if f.check == "offset")
    assert offset.episode is None and "joint3.pos: actions lie +0.08" in offset.found


def test_states_recorded_as_actions_are_found(make: Make, copy: Path) -> None:
    for episode in range(3):
        states = pq.read_table(copy / f"data/chunk-000/file-{episode:03d}.parquet")["observation.state"].to_pylist()
        same = dict.fromkeys(("action", "action__requested"), lambda _, s=states: np.array(s))
        edit_rows(copy, episode, **same)
    assert any(f.check == "actions are states" for f in check(copy))


# --- the dataset


def test_duplicates_are_found(make: Make, cfg: SyntheticCfg) -> None:
    again = make(lambda i, step, _: moving(0, cfg)[i])
    assert "same actions as episode 0" in only(check(again), "duplicate").found


def test_statistics_that_are_not_pooled_are_found(copy: Path) -> None:
    path = copy / "meta/stats.json"
    stats = json.loads(path.read_text())
    stats["action"]["q99"] = [value / 2 for value in stats["action"]["q99"]]
    path.write_text(json.dumps(stats))
    assert only(check(copy), "statistics", None).found == "statistics of action are not those of the frames"
    path.unlink()
    assert only(check(copy), "statistics", None).found == "there is no stats.json"


def test_labels_that_are_missing_or_disagree_with_the_columns_are_found(copy: Path) -> None:
    edit_rows(copy, 2, next__success=lambda s: ~s | True)
    assert only(check(copy), "label").remedy == "labels"
    journal = copy / "meta/armflow/labels.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:2]))
    assert only(check(copy), "label").found == "no label"
    journal.unlink()
    assert only(check(copy), "label", None).found == "no episode has a label"


def test_gaps_in_the_index_and_lost_files_are_found(copy: Path) -> None:
    edit_rows(copy, 2, index=lambda i: i + 3)
    assert only(check(copy), "index").found.startswith("index have gaps")
    (copy / "data/chunk-000/file-002.parquet").write_bytes(b"PAR1 torn")
    assert only(check(copy), "rows").remedy == "drop"
    (copy / "meta/episodes/chunk-000/file-001.parquet").unlink()
    assert {(f.check, f.episode) for f in check(copy)} >= {("index", 1), ("rows", 2)}


# --- the command


def test_the_command_lists_findings_writes_them_and_fails_on_errors(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "meta/stats.json").unlink()
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(
        sys, "argv", ["armflow", "data", "check", str(copy), "--no-images", "--json", str(tmp_path / "f.json")]
    )
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    text = capsys.readouterr().out
    assert "there is no stats.json" in text and "errors: 1, warnings: 0, notes: 1" in text
    written = json.loads((tmp_path / "f.json").read_text())
    assert [(f["severity"], f["check"], f["episode"]) for f in written] == [
        ("error", "statistics", None),
        ("note", "arm", None),
    ]


def test_two_cameras_a_factor_of_ten_apart_are_looked_at() -> None:
    depths = {(episode, camera): depth for episode in range(2) for camera, depth in (("head", 900.0), ("wrist", 92.0))}
    warning = next(f for f in check_depth_scale(depths, {}) if f.episode is None)
    assert warning.found == "head: median depth 900 mm, wrist: 92 mm" and warning.severity == "warning"
    assert not list(check_depth_scale({(0, "head"): 900.0, (0, "wrist"): 200.0}, {}))


def test_a_dataset_that_lerobot_recorded_can_be_checked(tmp_path: Path) -> None:
    features: dict[str, Any] = {
        name: {"dtype": "float32", "shape": (2,), "names": None} for name in ("observation.state", "action")
    }
    stock: Any = LeRobotDataset.create("local/stock", 10, features, tmp_path / "stock", "pusher", use_videos=False)
    for i in range(30):
        place = np.full(2, np.sin(i / 5), np.float32)
        stock.add_frame({"observation.state": place, "action": place, "task": "push"})
    stock.save_episode()
    stock.finalize()
    found = {f.check: f for f in check_dataset(tmp_path / "stock")}
    assert set(found) == {"arm", "label", "actions are states", "statistics"}
    repair(tmp_path / "stock")  # LeRobot's quantiles are those of a histogram
    assert "statistics" not in {f.check for f in check_dataset(tmp_path / "stock")}
    assert found["label"].found == "no episode has a label"
