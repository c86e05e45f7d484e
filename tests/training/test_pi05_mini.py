"""pi05-mini is a LeRobot policy, a FlowPolicy, and never silently something else."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from armflow.robot.errors import CheckpointError, MissingStats, SchemaMismatch
from armflow.training.flow import sample
from armflow.training.pi05_mini.configuration_pi05_mini import PI05MiniConfig
from armflow.training.pi05_mini.load import SHIPPED, load_policy
from armflow.training.pi05_mini.modeling_pi05_mini import PI05MiniPolicy
from armflow.training.pi05_mini.network import Attention, attention_bias
from armflow.training.pi05_mini.normaliser import QuantileNormaliser
from armflow.training.pi05_mini.tokenizer import UNKNOWN, WordTokenizer
from armflow.training.policy import ObsBatch
from armflow.training.pretrain import with_fresh_expert

B = 3


@pytest.fixture
def policy() -> PI05MiniPolicy:
    torch.manual_seed(0)
    policy = PI05MiniPolicy(PI05MiniConfig(device="cpu", vocabulary=["<pad>", "<unk>", "put", "the", "ball"])).eval()
    policy.state_norm.set(-torch.ones(8), torch.linspace(1, 2, 8))
    policy.action_norm.set(-0.5 * torch.ones(8), torch.linspace(0.5, 1, 8))
    torch.nn.init.normal_(policy.expert.action_out.weight, std=0.1)  # zero in an untrained network
    return policy


@pytest.fixture
def obs() -> ObsBatch:
    g = torch.Generator().manual_seed(1)
    images = {c: torch.randint(0, 256, (B, 3, 96, 128), generator=g, dtype=torch.uint8) for c in ("head", "front")}
    return ObsBatch(images, torch.randn(B, 8, generator=g), ["put the ball", "put", "put the strange ball"])


@pytest.mark.slow
def test_stock_lerobot_loads_a_checkpoint_in_a_fresh_process(policy: PI05MiniPolicy, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path)
    code = f"""
import armflow.training.pi05_mini.configuration_pi05_mini
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
config = PreTrainedConfig.from_pretrained({str(tmp_path)!r})
policy = get_policy_class(config.type).from_pretrained({str(tmp_path)!r})
make_pre_post_processors(config, pretrained_path={str(tmp_path)!r})
print("LOADED", type(policy).__name__, float(sum(p.double().sum() for p in policy.parameters())))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    total = float(sum(p.double().sum() for p in policy.parameters()))
    assert f"LOADED PI05MiniPolicy {total}" in out


def lerobot_batch(head_size: tuple[int, int]) -> dict[str, Any]:
    return {
        "observation.images.head": torch.rand(1, 3, *head_size),
        "observation.images.front": torch.rand(1, 3, 96, 128),
        "observation.state": torch.zeros(1, 8),
        "task": ["put the ball"],
    }


def test_a_reloaded_policy_acts_the_same(policy: PI05MiniPolicy, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path)
    batch = lerobot_batch((480, 640))
    noise = torch.randn(1, 16, 8)
    ours = policy.predict_action_chunk(batch, noise=noise)
    assert torch.equal(ours, load_policy(tmp_path).predict_action_chunk(batch, noise=noise))


def test_a_truncated_checkpoint_is_refused(policy: PI05MiniPolicy, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(100_000)
    with pytest.raises(CheckpointError, match="100000 bytes.*not a complete"):
        load_policy(tmp_path)


def test_weights_that_do_not_fit_are_refused_instead_of_left_random(policy: PI05MiniPolicy, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text().replace('"ball"', '"ball", "cup"')
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match="not a complete"):
        load_policy(tmp_path)


def test_a_folder_without_a_checkpoint_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="config.json is missing.*armflow train sft"):
        load_policy(tmp_path)


def test_a_checkpoint_without_statistics_is_refused(policy: PI05MiniPolicy, tmp_path: Path) -> None:
    policy.action_norm = QuantileNormaliser("action", 8)
    policy.save_pretrained(tmp_path)
    with pytest.raises(MissingStats, match="action: no normalisation statistics"):
        load_policy(tmp_path)


def test_quantiles_survive_a_round_trip_beyond_the_unit_range(policy: PI05MiniPolicy) -> None:
    """T4."""
    actions, state = 5 * torch.randn(B, 16, 8), torch.randn(B, 8)
    assert torch.allclose(policy.from_flow(policy.to_flow(actions, state), state), actions, atol=1e-5)


def test_joint_actions_are_relative_and_the_gripper_is_not(policy: PI05MiniPolicy) -> None:
    x = torch.randn(1, 16, 8)
    shift = torch.full((1, 8), 0.25)
    moved = policy.from_flow(x, torch.zeros(1, 8) + shift) - policy.from_flow(x, torch.zeros(1, 8))
    assert torch.allclose(moved[..., :7], torch.tensor(0.25), atol=1e-6)
    assert torch.equal(moved[..., 7], torch.zeros(1, 16))


def test_a_joint_that_never_moved_does_not_blow_noise_up() -> None:
    norm = QuantileNormaliser("action", 1)
    norm.set(torch.zeros(1), torch.zeros(1))
    assert norm.normalise(torch.tensor([1e-4])).abs().item() < 1.5


def test_a_missing_camera_is_named(policy: PI05MiniPolicy, obs: ObsBatch) -> None:
    del obs.images["front"]
    with pytest.raises(SchemaMismatch, match=r"no image from \['front'\]"):
        policy.encode(obs)


def test_images_of_any_size_give_the_same_shapes(policy: PI05MiniPolicy, obs: ObsBatch) -> None:
    small = policy.encode(obs)
    big = ObsBatch(
        {c: torch.nn.functional.interpolate(x, (480, 640)) for c, x in obs.images.items()}, obs.state, obs.instructions
    )
    assert policy.encode(big).keys.shape == small.keys.shape


def test_a_copied_expert_on_the_same_prefix_has_no_residual(policy: PI05MiniPolicy, obs: ObsBatch) -> None:
    """T2, bit for bit."""
    other = copy.deepcopy(policy)
    ctx, x, t = policy.encode(obs), torch.randn(B, 16, 8), torch.rand(B)
    assert torch.equal(policy.velocity(ctx, x, t), other.velocity(ctx, x, t))


def test_padding_words_change_nothing(policy: PI05MiniPolicy, obs: ObsBatch) -> None:
    ctx, x, t = policy.encode(obs), torch.randn(B, 16, 8), torch.rand(B)
    garbage = torch.where(ctx.mask[:, None, :, None], 0.0, 7.0)
    spoiled = ctx.__class__(ctx.keys + garbage, ctx.values + garbage, ctx.tokens, ctx.mask, ctx.state)
    assert torch.allclose(policy.velocity(spoiled, x, t), policy.velocity(ctx, x, t), atol=1e-6)


def test_the_instruction_and_the_images_matter(policy: PI05MiniPolicy, obs: ObsBatch) -> None:
    x, t = torch.randn(B, 16, 8), torch.rand(B)
    v = policy.velocity(policy.encode(obs), x, t)
    other_words = ObsBatch(obs.images, obs.state, ["the ball"] * B)
    blank = ObsBatch({c: torch.zeros_like(i) for c, i in obs.images.items()}, obs.state, obs.instructions)
    assert not torch.allclose(policy.velocity(policy.encode(other_words), x, t), v, atol=1e-4)
    assert not torch.allclose(policy.velocity(policy.encode(blank), x, t), v, atol=1e-4)


def test_unknown_words_are_read_as_unknown() -> None:
    ids, mask = WordTokenizer(["<pad>", "<unk>", "put"], max_words=4)(["Put peach"])
    assert ids.tolist() == [[2, UNKNOWN, 0, 0]] and mask.tolist() == [[True, True, False, False]]


def test_attention_is_scaled_dot_product_attention_with_one_key_for_all_heads() -> None:
    attention, heads, d = Attention(12, heads=3, head_dim=4), 3, 4
    x, mask = torch.randn(2, 5, 12), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    key, value = torch.randn(2, 6, d), torch.randn(2, 6, d)
    q = attention.query(x).view(2, 5, heads, d).transpose(1, 2)
    k, v = (y[:, None].expand(2, heads, 6, d) for y in (key, value))
    reference = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
    ours = attention(x, key, value, attention_bias(mask, x.dtype))
    assert torch.allclose(ours, attention.out(reference.transpose(1, 2).reshape(2, 5, -1)), atol=1e-5)


def test_the_queue_executes_a_chunk_step_by_step_and_is_cleared(policy: PI05MiniPolicy) -> None:
    batch = lerobot_batch((96, 128))
    noise = torch.randn(1, 16, 8)
    chunk = policy.predict_action_chunk(batch, noise=noise)
    for i in range(policy.n_action_steps):
        assert torch.equal(policy.select_action(batch, noise=noise), chunk[:, i])
    policy.select_action(batch, noise=noise)
    policy.reset()
    assert torch.equal(policy.select_action(batch, noise=noise), chunk[:, 0])


@pytest.mark.skipif(not (SHIPPED / "model.safetensors").exists(), reason="weights are made by `armflow pretrain`")
def test_the_shipped_weights_are_small_and_complete() -> None:
    assert (SHIPPED / "model.safetensors").stat().st_size <= 16e6
    assert (SHIPPED / "README.md").exists(), "the card"
    assert load_policy(SHIPPED).config.cameras == ("head", "front")


@pytest.mark.parametrize("flow_steps", [5, 10])
def test_no_noise_is_left_in_the_chunk(flow_steps: int, policy: PI05MiniPolicy) -> None:
    """The expert predicts the clean chunk; a fresh one predicts zeros, whatever the noise."""
    fresh = with_fresh_expert(policy, seed=0)
    with torch.no_grad():
        ctx = fresh.encode(fresh.obs_batch(lerobot_batch((96, 128))))
        x = sample(fresh, ctx, torch.randn(1, 16, 8), flow_steps=flow_steps)
    assert x.abs().max() < 1e-5
