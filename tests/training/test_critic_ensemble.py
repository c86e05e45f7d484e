"""The critic's shape and promises (methods 2.5; T2.5)."""

from collections.abc import Callable

import pytest
import torch
from armflow.robot.errors import ConfigError
from armflow.training.critics.ema import ema_update, frozen_copy
from armflow.training.critics.ensemble import CriticCfg, CriticEnsemble, HeadLinear, ValueNet
from armflow.training.critics.objective import ChunkBatch
from armflow.training.critics.qfunction import advantage, clip_norm, pool, value_and_gradient
from armflow.training.critics.space import CriticSpace
from torch import nn

MakeCritic = Callable[..., CriticEnsemble]
MakeBatch = Callable[..., ChunkBatch]


def n_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def layers(modules: nn.ModuleList) -> list[HeadLinear]:
    return [module for module in modules if isinstance(module, HeadLinear)]


def bias(layer: HeadLinear) -> torch.Tensor:
    assert isinstance(layer.bias, torch.Tensor)
    return layer.bias


def test_paper_shape_has_the_papers_parameter_count(rng: torch.Generator) -> None:
    n_heads, proprio = 2, 8
    critic = CriticEnsemble(CriticCfg(n_heads), z_dim=2048, proprio_dim=proprio, chunk_shape=(5, 7), rng=rng)
    head = (n_parameters(critic) - n_parameters(critic.proprio)) / n_heads
    assert head == 2_939_393  # 2304/35/1024/512: weights and biases of three layers, no affine LayerNorm
    assert n_parameters(critic.proprio) == n_heads * 256 * proprio


@pytest.mark.parametrize("layer", [0, 1])
def test_every_hidden_layer_sees_the_action(layer: int, make_critic: MakeCritic, make_batch: MakeBatch) -> None:
    critic, batch = make_critic(), make_batch()
    before = critic.q(batch.z, batch.proprio, batch.chunk)
    action_weights = [layer.weight for layer in layers(critic.action_layers)]  # zero the others: only `layer` is left
    with torch.no_grad():
        for i, weight in enumerate(action_weights):
            if i != layer:
                weight.zero_()
    alone = critic.q(batch.z, batch.proprio, batch.chunk)
    assert not torch.allclose(alone, before)
    _, grad = value_and_gradient(critic.at(batch.z, batch.proprio), batch.chunk)
    assert (grad.abs() > 0).all()
    with torch.no_grad():
        action_weights[layer].zero_()
    blind = critic.q(batch.z, batch.proprio, batch.chunk)
    assert torch.equal(blind, critic.q(batch.z, batch.proprio, batch.chunk.flip(0)))


def test_heads_share_nothing(make_critic: MakeCritic, make_batch: MakeBatch) -> None:
    critic, batch = make_critic(), make_batch()
    critic.q(batch.z, batch.proprio, batch.chunk)[1].sum().backward()
    for name, p in critic.named_parameters():
        assert p.grad is not None, name
        assert p.grad[[0, 2, 3]].abs().sum() == 0, name
    q = critic.q(batch.z, batch.proprio, batch.chunk)
    assert q.std(0).min() > 1e-3


def test_each_head_is_the_plain_network_of_the_paper(make_critic: MakeCritic, make_batch: MakeBatch) -> None:
    """One head written out layer by layer on the concatenation [h ; a]."""
    critic, batch, m = make_critic(), make_batch(), 2
    a = batch.chunk.flatten(1)
    h = torch.cat([batch.z, batch.proprio @ critic.proprio.weight[m]], -1)
    h = nn.functional.layer_norm(h, h.shape[-1:])
    for u, v in zip(layers(critic.state_layers), layers(critic.action_layers), strict=True):
        h = torch.cat([h, a], -1) @ torch.cat([u.weight[m], v.weight[m]]) + bias(u)[m]
        h = nn.functional.silu(nn.functional.layer_norm(h, h.shape[-1:]))
    expected = (h @ critic.out.weight[m] + bias(critic.out)[m])[:, 0]
    assert torch.allclose(critic.q(batch.z, batch.proprio, batch.chunk)[m], expected, atol=1e-6)


def test_many_candidates_at_once_equal_one_at_a_time(make_critic: MakeCritic, make_batch: MakeBatch) -> None:
    critic, batch = make_critic(), make_batch()
    candidates = batch.proposals.transpose(0, 1).unflatten(0, (2, 4))  # (2, 4, b, C, d)
    q = critic.q(batch.z, batch.proprio, candidates)
    assert q.shape == (4, 2, 4, 16)
    for i in range(2):
        for j in range(4):
            assert torch.allclose(q[:, i, j], critic.q(batch.z, batch.proprio, candidates[i, j]), atol=1e-6)


def test_action_gradient_matches_finite_differences(
    make_critic: MakeCritic, make_batch: MakeBatch, rng: torch.Generator
) -> None:
    critic, batch, eps = make_critic().double(), make_batch(), 1e-5
    q_fn = critic.at(batch.z.double(), batch.proprio.double())
    chunk = batch.chunk.double()
    u = torch.randn(chunk.shape, generator=rng, dtype=chunk.dtype)
    _, grad = value_and_gradient(q_fn, chunk)
    numeric = (q_fn(chunk + eps * u) - q_fn(chunk - eps * u)).mean(0) / (2 * eps)
    assert torch.allclose((grad * u).sum((-2, -1)), numeric, atol=1e-8)


def test_gradient_of_the_action_leaves_none_on_the_critic(make_critic: MakeCritic, make_batch: MakeBatch) -> None:
    critic, batch = make_critic(), make_batch()
    value_and_gradient(critic.at(batch.z, batch.proprio), batch.chunk)
    assert all(p.grad is None for p in critic.parameters())


def test_wrong_chunk_shape_names_the_expected_one(make_critic: MakeCritic, make_batch: MakeBatch) -> None:
    critic, batch = make_critic(), make_batch()
    with pytest.raises(ConfigError, match=r"16, 3, 2"):
        critic.q(batch.z, batch.proprio, batch.chunk[:, :2])
    with pytest.raises(ConfigError, match=r"16, 3, 2"):
        critic.q(batch.z, batch.proprio, batch.chunk[:4])


def test_same_seed_same_critic(make_critic: MakeCritic) -> None:
    for a, b in zip(make_critic(3).parameters(), make_critic(3).parameters(), strict=True):
        assert torch.equal(a, b)


def test_value_net_gives_one_number_per_state(make_batch: MakeBatch, rng: torch.Generator) -> None:
    batch = make_batch()
    value = ValueNet(CriticCfg(hidden=(32, 32), proprio_width=8), z_dim=6, proprio_dim=4, rng=rng)
    assert value(batch.z, batch.proprio).shape == (16,)


def test_target_moves_by_the_ema_rate_and_takes_no_gradient(make_critic: MakeCritic) -> None:
    critic, other = make_critic(0), make_critic(1)
    target = frozen_copy(critic)
    assert not any(p.requires_grad for p in target.parameters())
    ema_update(target, other, 0.25)
    for t, c, o in zip(target.parameters(), critic.parameters(), other.parameters(), strict=True):
        assert torch.allclose(t, 0.75 * c + 0.25 * o)
        assert o.grad is None


def test_pooling_uses_the_population_deviation_and_two_heads_give_their_minimum() -> None:
    q = torch.tensor([[1.0, 5.0], [3.0, 1.0]])
    assert pool(q, 0.0).tolist() == [2.0, 3.0]
    assert pool(q, 0.5).tolist() == [1.5, 2.0]
    assert torch.equal(pool(q, 1.0), q.min(0).values)


def test_clipping_scales_long_gradients_only() -> None:
    g = torch.tensor([[[3.0, 4.0]], [[0.3, 0.4]], [[0.0, 0.0]]])
    clipped = clip_norm(g, 2.0)
    assert torch.allclose(clipped.flatten(1).norm(dim=1), torch.tensor([2.0, 0.5, 0.0]))  # T5.1: norm 5, G = 2
    assert torch.allclose(clipped[0], g[0] * 0.4)


def relative_critic(rng: torch.Generator, k: int = 6) -> CriticEnsemble:
    cfg = CriticCfg(4, (32, 32), proprio_width=8, mahalanobis=k)
    critic = CriticEnsemble(cfg, z_dim=6, proprio_dim=4, chunk_shape=(3, 2), rng=rng)
    for layer in layers(critic.action_layers):
        nn.init.normal_(layer.weight, generator=rng)
    return critic


def test_a_relative_critic_sees_only_the_distance_from_the_centre(rng: torch.Generator, make_batch: MakeBatch) -> None:
    critic, batch = relative_critic(rng), make_batch()
    shift = torch.randn(16, 3, 2, generator=rng)
    q = critic.q(batch.z, batch.proprio, batch.chunk, batch.centre)
    assert torch.allclose(q, critic.q(batch.z, batch.proprio, batch.chunk + shift, batch.centre + shift), atol=1e-4)
    assert torch.allclose(q, critic.q(batch.z, batch.proprio, 2 * batch.centre - batch.chunk, batch.centre), atol=1e-4)
    assert not torch.allclose(q, critic.q(batch.z, batch.proprio, batch.chunk, batch.centre + shift), atol=1e-2)


def test_distances_are_measured_in_the_spread_of_the_data(rng: torch.Generator, make_batch: MakeBatch) -> None:
    critic, batch = relative_critic(rng), make_batch(b=64)
    stretched = batch.centre + (batch.chunk - batch.centre) * torch.tensor([0.05, 20.0])
    critic.fit_directions(batch.chunk, batch.centre)
    before = critic.q(batch.z, batch.proprio, batch.chunk, batch.centre)
    critic.fit_directions(stretched, batch.centre)
    assert torch.allclose(critic.q(batch.z, batch.proprio, stretched, batch.centre), before, atol=1e-3)


def test_directions_are_the_data_s_principal_ones(rng: torch.Generator) -> None:
    critic = relative_critic(rng, 2)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=rng))[0]
    deviations = torch.tensor([3.0, 1.0, 0.1, 0.1, 0.1, 0.1])
    chunk = ((torch.randn(20_000, 6, generator=rng) * deviations) @ rotation.T).unflatten(1, (3, 2))
    critic.fit_directions(chunk, torch.zeros_like(chunk))
    assert critic.directions is not None
    assert torch.allclose(critic.directions.norm(dim=0), deviations[:2], rtol=0.02)
    along = (critic.directions / critic.directions.norm(dim=0)).T @ rotation[:, :2]
    assert torch.allclose(along.abs(), torch.eye(2), atol=0.02)
    with torch.no_grad():
        seen = critic.at(torch.zeros(1, 6), torch.zeros(1, 4), torch.zeros(1, 3, 2))
        aside = (5 * rotation[:, 4]).reshape(1, 3, 2)  # where the data never go, it sees nothing
        assert torch.allclose(seen(aside), seen(torch.zeros(1, 3, 2)), atol=0.5)


def test_an_ascent_moves_along_the_directions_in_their_lengths(rng: torch.Generator) -> None:
    """Steepest ascent where deviations are the unit: D clip(D^T grad), and `gradient_of` undoes it."""
    directions = torch.linalg.qr(torch.randn(6, 2, generator=rng))[0] * torch.tensor([2.0, 0.1])
    space = CriticSpace(-torch.ones(3, 2), torch.ones(3, 2), directions)
    grad = torch.randn(5, 3, 2, generator=rng)
    move = space.uphill(grad, 0.3)
    deviations = move.flatten(1) @ (directions / directions.square().sum(0))
    assert torch.allclose(move.flatten(1), deviations @ directions.T, atol=1e-6)  # nothing across them
    assert float(deviations.norm(dim=1).max()) <= 0.3 + 1e-6
    assert float((move * grad).sum((1, 2)).min()) > 0
    assert torch.allclose(space.uphill(space.gradient_of(move), 1e9), move, atol=1e-5)


def test_a_fresh_relative_critic_has_no_opinion_about_actions(rng: torch.Generator, make_batch: MakeBatch) -> None:
    cfg = CriticCfg(4, (32, 32), proprio_width=8, mahalanobis=6)
    critic, batch = CriticEnsemble(cfg, z_dim=6, proprio_dim=4, chunk_shape=(3, 2), rng=rng), make_batch()
    q = critic.q(batch.z, batch.proprio, batch.chunk, batch.centre)
    assert torch.equal(q, critic.q(batch.z, batch.proprio, batch.chunk + 1, batch.centre))


def test_a_relative_critic_without_a_centre_says_so(rng: torch.Generator, make_batch: MakeBatch) -> None:
    batch = make_batch()
    with pytest.raises(ConfigError, match="was not given"):
        relative_critic(rng).q(batch.z, batch.proprio, batch.chunk)


def test_an_advantage_is_zero_where_it_is_taken_over(rng: torch.Generator, make_batch: MakeBatch) -> None:
    critic, batch = relative_critic(rng), make_batch()
    q_fn = critic.at(batch.z, batch.proprio, batch.centre)
    over = advantage(q_fn, batch.chunk)
    assert torch.equal(over(batch.chunk), torch.zeros(4, 16))
    both = torch.stack([batch.centre, batch.chunk])
    assert torch.allclose(over(both)[:, 0], q_fn(batch.centre) - q_fn(batch.chunk), atol=1e-5)


def test_too_few_chunks_for_the_directions_are_refused(rng: torch.Generator, make_batch: MakeBatch) -> None:
    batch = make_batch(b=5)
    with pytest.raises(ConfigError, match="5 chunks do not have 6 directions; collect more rollouts"):
        relative_critic(rng).fit_directions(batch.chunk, batch.centre)


@pytest.mark.parametrize(
    ("k", "message"), [(0, "mahalanobis must be >= 1"), (7, "7 directions in chunks of 6 numbers")]
)
def test_directions_that_cannot_be_are_refused(k: int, message: str, rng: torch.Generator) -> None:
    with pytest.raises(ConfigError, match=message):
        relative_critic(rng, k)
