"""The stages on a handful of real twin episodes: they run, resume, repeat themselves and refuse what does not fit."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from armflow.datasets.episodes import EpisodeArrays, EpisodeRef, dataset_hash
from armflow.robot.errors import CheckpointError, ConfigError, DataError, SchemaMismatch
from armflow.robot.rig import load_rig
from armflow.robot.seeds import seeds
from armflow.robot.types import ControlMode
from armflow.teleop.collect import CollectCfg, Job, Scripted, collect
from armflow.training.critics.cal_ql import CalQLCfg
from armflow.training.critics.ensemble import CriticCfg
from armflow.training.critics.iql import IQLCfg
from armflow.training.critics.sarsa import SarsaCfg
from armflow.training.loop import TrainCfg
from armflow.training.pi05_mini.load import load_policy
from armflow.training.pi05_mini.modeling_pi05_mini import PI05MiniConfig, PI05MiniPolicy
from armflow.training.prefix_cache import PrefixCache, build, prefix_hash
from armflow.training.rlt import RLTCfg
from armflow.training.stages.critic import CriticStageCfg, load_critic, load_gates, run_critic
from armflow.training.stages.qvgm import QVGMStageCfg, run_qvgm
from armflow.training.stages.rlt import RLTStageCfg, load_rlt, run_rlt
from armflow.training.stages.sft import SFTCfg, action_chunks, run_sft

pytestmark = pytest.mark.slow

TINY = TrainCfg(steps=3, lr=1e-3, eval_every=3, save_every=1, warmup_steps=1)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six scripted episodes of both tasks."""
    root = tmp_path_factory.mktemp("data") / "demos"
    jobs = [Job(task, seed) for task in ("pick_peach", "stack_bowls") for seed in seeds("tuning", task, 3)]
    collect(load_rig().with_image_size(128, 96), jobs, Scripted(), root, CollectCfg(workers=1))
    return root


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained policy with usable statistics."""
    torch.manual_seed(0)
    policy = PI05MiniPolicy(PI05MiniConfig(device="cpu", vocabulary=["<pad>", "<unk>", "put", "the", "in", "bowl"]))
    policy.state_norm.set(-3 * torch.ones(8), 3 * torch.ones(8))
    policy.action_norm.set(torch.tensor([-0.6] * 7 + [0.0]), torch.tensor([0.6] * 7 + [1.0]))
    folder = tmp_path_factory.mktemp("base")
    policy.save_pretrained(folder)
    return folder


@pytest.fixture
def sft(dataset: Path, base: Path, tmp_path: Path) -> SFTCfg:
    return SFTCfg(dataset, tmp_path / "sft", base, tmp_path / "cache", batch_size=4, noises=2, train=TINY)


@pytest.fixture
def critic(dataset: Path, sft: SFTCfg, tmp_path: Path) -> CriticStageCfg:
    run_sft(sft)
    token = RLTCfg(width=32, n_heads=2, max_tokens=64)
    run_rlt(RLTStageCfg((dataset,), tmp_path / "rlt", sft.out, sft.cache, batch_size=4, network=token, train=TINY))
    return CriticStageCfg(
        (dataset,), sft.out, tmp_path / "rlt", tmp_path / "critic", sft.cache, batch_size=8,
        network=CriticCfg(n_heads=2, hidden=(16, 16), proprio_width=8), folds=2, train=TINY,
    )  # fmt: skip


def test_sft_moves_the_expert_and_nothing_else(sft: SFTCfg) -> None:
    run_sft(sft)
    before, after = load_policy(sft.base).state_dict(), load_policy(sft.out).state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"expert"}
    manifest = json.loads((sft.out / "manifest.json").read_text())
    assert manifest["inputs"]["data"] == dataset_hash(sft.data) and (sft.out / "curves.svg").exists()


def test_a_finished_stage_is_not_run_again(sft: SFTCfg) -> None:
    first = run_sft(sft)
    weights = (sft.out / "checkpoint/model.safetensors").stat().st_mtime_ns
    assert run_sft(sft) == first
    assert (sft.out / "checkpoint/model.safetensors").stat().st_mtime_ns == weights


def test_the_same_sft_twice_gives_the_same_weights(sft: SFTCfg) -> None:
    run_sft(sft)
    again = replace(sft, out=sft.out.with_name("again"))
    run_sft(again)
    a, b = load_policy(sft.out).state_dict(), load_policy(again.out).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_folder_of_another_run_is_refused(sft: SFTCfg) -> None:
    run_sft(sft)
    with pytest.raises(ConfigError, match="batch_size: 4 there, 5 asked for"):
        run_sft(replace(sft, batch_size=5))


def test_the_prefix_cache_equals_the_prefix_within_half_precision(sft: SFTCfg) -> None:
    policy = load_policy(sft.base)
    cache = build(policy, sft.data, sft.cache, stride=7)
    from armflow.datasets.episodes import load_images, open_dataset
    from armflow.training.policy import ObsBatch

    row = len(cache) // 2
    dataset = open_dataset(sft.data)
    episode = dataset.episodes[int(cache.episode[row])]
    frame = int(cache.frame[row])
    images = {
        c: torch.from_numpy(load_images(dataset, episode, c)[frame : frame + 1]).permute(0, 3, 1, 2)
        for c in policy.config.cameras
    }
    with torch.no_grad():
        fresh = policy.encode(ObsBatch(images, torch.from_numpy(cache.state[row : row + 1].copy()), [episode.task]))
    cached = cache.context(np.array([row]))
    assert torch.allclose(cached.keys, fresh.keys, atol=5e-3, rtol=5e-3)
    assert torch.equal(cached.state, fresh.state)


def test_the_prefix_is_computed_once_and_shared_by_fine_tuned_policies(sft: SFTCfg) -> None:
    run_sft(sft)
    assert prefix_hash(load_policy(sft.out)) == prefix_hash(load_policy(sft.base))
    folders = sorted(p.name for p in sft.cache.iterdir())
    build(load_policy(sft.out), sft.data, sft.cache)
    assert sorted(p.name for p in sft.cache.iterdir()) == folders


def test_a_dataset_at_another_rate_is_refused(sft: SFTCfg, tmp_path: Path) -> None:
    root = _copy_with_info(sft.data, tmp_path / "fast", fps=20)
    with pytest.raises(SchemaMismatch, match="recorded at 20 fps, the policy acts at 10 fps"):
        run_sft(replace(sft, data=root))


def test_the_checkpoint_says_which_arm_and_images_it_was_trained_on(sft: SFTCfg) -> None:
    run_sft(sft)
    config = load_policy(sft.out).config
    assert config.arm == "fr3"
    features = config.input_features
    assert {key: feature.shape for key, feature in (features or {}).items()} == {
        "observation.images.head": (3, 96, 128),
        "observation.images.front": (3, 96, 128),
    }


def test_a_dataset_with_another_joint_order_is_refused(sft: SFTCfg, tmp_path: Path) -> None:
    root = tmp_path / "swapped"
    shutil.copytree(sft.data, root)
    info = json.loads((root / "meta/info.json").read_text())
    for feature in ("action", "observation.state", "action.requested"):
        names = info["features"][feature]["names"]
        names[0], names[1] = names[1], names[0]
    (root / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(SchemaMismatch, match=r"joint2.pos, joint1.pos.*trained on joint1.pos, joint2.pos"):
        run_sft(replace(sft, data=root))


def test_nan_in_the_actions_names_the_episode(sft: SFTCfg) -> None:
    cache = build(load_policy(sft.base), sft.data, sft.cache)
    spoiled = cache.episodes[2].action.copy()
    spoiled[5, 3] = np.nan
    episode = replace(cache.episodes[2], columns={**cache.episodes[2].columns, "action": spoiled})
    cache.episodes[2] = episode
    with pytest.raises(DataError, match=rf"episodes \[{cache.episodes[2].ref.index}\]"):
        action_chunks(cache, 16)


def test_nobody_learns_to_wait_from_a_pause() -> None:
    """Chunks end where it begins, and none begins in it."""
    mode = np.repeat([ControlMode.POLICY, ControlMode.PAUSE, ControlMode.POLICY], [3, 2, 4])
    ref = EpisodeRef(0, len(mode), "", Path(), {}, None)
    episode = EpisodeArrays(ref, {"action": np.zeros((len(mode), 8), np.float32), "control_mode": mode})
    cache = PrefixCache(Path(), [episode], np.zeros(len(mode), np.int64), np.arange(len(mode)), {})
    _, valid = action_chunks(cache, 3)
    assert valid.sum(1).tolist() == [3, 2, 1, 0, 0, 3, 3, 2, 1]
    assert valid[:, 0].tolist() == (mode != ControlMode.PAUSE).tolist()


def test_the_rl_token_is_refused_for_another_prefix(critic: CriticStageCfg) -> None:
    with pytest.raises(CheckpointError, match="was trained on prefix"):
        load_rlt(critic.rlt, "0123456789abcdef")


@pytest.mark.parametrize("objective", [CalQLCfg(), IQLCfg(), SarsaCfg()], ids=["cal-ql", "iql", "sarsa"])
def test_critic_trains_saves_and_holds_its_gates(
    critic: CriticStageCfg, objective: CalQLCfg | IQLCfg | SarsaCfg
) -> None:
    cfg = replace(critic, objective=objective)
    run_critic(cfg)
    loaded = load_critic(cfg.out)
    q = loaded.ensemble.q(torch.zeros(1, 32), torch.zeros(1, 8), torch.zeros(1, 8, 8))
    assert q.shape == (2, 1) and bool(torch.isfinite(q).all())
    names = {gate.name for gate in load_gates(cfg.out).gates}
    assert {"action sensitivity", "global direction", "return ranking", "confirmed gain"} <= names


def test_policy_updates_need_a_critic_that_passed_its_gates(critic: CriticStageCfg, tmp_path: Path) -> None:
    run_critic(critic)
    gates = json.loads((critic.out / "gates.json").read_text())
    gates["gates"][0] |= {"value": -1.0, "sense": ">=", "threshold": 0.0}
    (critic.out / "gates.json").write_text(json.dumps(gates))
    cfg = QVGMStageCfg(critic.data, critic.policy, critic.out, tmp_path / "q", critic.cache, batch_size=4, train=TINY)
    with pytest.raises(CheckpointError, match=r"failed its gates:(?s:.*)action sensitivity(?s:.*)--ignore-gates"):
        run_qvgm(cfg)
    run_qvgm(replace(cfg, ignore_gates=True))
    assert load_policy(cfg.out).chunk_size == 16


@pytest.mark.parametrize("control", ["no-op", "constant-direction"])
def test_controls_run_where_qvgm_runs(critic: CriticStageCfg, tmp_path: Path, control: str) -> None:
    run_critic(critic)
    cfg = QVGMStageCfg(
        critic.data, critic.policy, critic.out, tmp_path / control, critic.cache, control=control,  # type: ignore[arg-type]
        ignore_gates=True, batch_size=4, train=replace(TINY, weight_decay=0.0),
    )  # fmt: skip
    metrics = run_qvgm(cfg)
    moved = metrics["held_out/final_displacement"]
    before, after = load_policy(critic.policy).state_dict(), load_policy(cfg.out).state_dict()
    same = all(torch.equal(before[name], after[name]) for name in before)
    assert (moved < 1e-5 and same) if control == "no-op" else (moved > 1e-4 and not same)  # the rest is rounding


def _copy_with_info(source: Path, target: Path, **changes: int) -> Path:
    shutil.copytree(source, target)
    info = json.loads((target / "meta/info.json").read_text()) | changes
    (target / "meta/info.json").write_text(json.dumps(info))
    return target
