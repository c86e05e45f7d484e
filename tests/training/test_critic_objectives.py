"""Chunk targets and the three objectives (methods 1.6, 2.2 to 2.4; T2.1 to T2.4, T3, T6)."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from armflow.robot.errors import ConfigError
from armflow.training.critics.cal_ql import CalQL, CalQLCfg, conservative_gap
from armflow.training.critics.ema import ema_update, frozen_copy
from armflow.training.critics.ensemble import CriticCfg, CriticEnsemble, ValueNet
from armflow.training.critics.iql import IQL, IQLCfg, expectile_loss
from armflow.training.critics.objective import ChunkBatch, CriticObjective, td_target, weighted_mean
from armflow.training.critics.sarsa import Sarsa, SarsaCfg
from armflow.training.critics.space import CriticSpace

MakeCritic = Callable[..., CriticEnsemble]
MakeBatch = Callable[..., ChunkBatch]


def objectives(space: CriticSpace) -> list[CriticObjective]:
    value = ValueNet(
        CriticCfg(hidden=(32, 32), proprio_width=8), z_dim=6, proprio_dim=4, rng=torch.Generator().manual_seed(2)
    )
    return [Sarsa(SarsaCfg()), IQL(IQLCfg(), value), CalQL(CalQLCfg(), space)]


def test_chunk_target_stops_at_termination_and_bootstraps_by_executed_steps(make_batch: MakeBatch) -> None:
    gamma = 0.5
    batch = make_batch(
        b=2,
        reward=torch.tensor([1.0, 2.0]),
        bootstrap=gamma ** torch.tensor([2.0, 3.0]),
        terminated=torch.tensor([True, False]),
    )
    assert td_target(batch, torch.tensor([10.0, 10.0])).tolist() == [1.0, 3.25]


def test_endless_failure_is_worth_its_geometric_sum_and_a_time_limit_does_not_change_it(make_batch: MakeBatch) -> None:
    """T2.4: -100 is the fixed point of the target for r = -1 and gamma = 0.99, at any number of executed steps."""
    gamma, n = 0.99, torch.tensor([1.0, 3.0, 8.0])
    reward = torch.tensor([sum(-(gamma**i) for i in range(int(k))) for k in n])
    batch = make_batch(b=3, reward=reward, bootstrap=gamma**n)  # truncated: not terminated
    value = torch.zeros(3)
    for _ in range(4000):
        value = td_target(batch, value)
    assert torch.allclose(value, torch.full((3,), -100.0), atol=1e-2)
    assert torch.allclose(td_target(batch, torch.full((3,), -100.0)), torch.full((3,), -100.0), atol=1e-4)


@pytest.mark.parametrize(("expectile", "p", "expected"), [(0.8, 0.5, 0.8), (0.9, 0.25, 0.75), (0.5, 0.3, 0.3)])
def test_expectile_of_a_coin(expectile: float, p: float, expected: float) -> None:
    v = torch.tensor(0.5, requires_grad=True)
    optimiser = torch.optim.SGD([v], lr=0.5)
    for _ in range(300):
        loss = p * expectile_loss(1 - v, expectile) + (1 - p) * expectile_loss(0 - v, expectile)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert v.item() == pytest.approx(expected, abs=1e-5)


def test_calibrated_policy_actions_below_the_return_are_left_alone() -> None:
    q_data = torch.tensor([[0.4, 0.5]], requires_grad=True)  # (heads, b)
    q_uniform = torch.tensor([[[0.2, 0.1], [0.3, 0.0]]], requires_grad=True)  # (heads, n, b)
    q_policy = torch.tensor([[[0.1, 0.3], [0.5, 0.2]]], requires_grad=True)
    gap = conservative_gap(q_data, q_uniform, q_policy, torch.tensor([0.9, 0.9]), temperature=1.0)
    gap.sum().backward()
    assert q_policy.grad is not None and torch.equal(q_policy.grad, torch.zeros_like(q_policy))
    assert q_data.grad is not None and torch.equal(q_data.grad, -torch.ones_like(q_data))
    assert q_uniform.grad is not None and (q_uniform.grad > 0).all()


def test_without_a_return_to_calibrate_by_it_is_cql() -> None:
    g = torch.Generator().manual_seed(0)
    q_data, q_uniform, q_policy = (torch.randn(2, *shape, generator=g) for shape in ((5,), (3, 5), (4, 5)))
    gap = conservative_gap(q_data, q_uniform, q_policy, torch.full((5,), -math.inf), temperature=0.7)
    cql = 0.7 * torch.logsumexp(torch.cat([q_uniform, q_policy], 1) / 0.7, 1) - q_data
    assert torch.equal(gap, cql)


def test_heads_may_weigh_chunks_differently() -> None:
    """(b, heads): each head's own weighted mean, then the mean over heads; what has no heads is weighed by their mean."""
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    weight = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    assert float(weighted_mean(x, weight)) == pytest.approx((1.5 + 6.0) / 2)
    assert float(weighted_mean(x[0], weight)) == pytest.approx((0.5 * 1 + 0.5 * 2 + 1.0 * 3) / 2)
    assert float(weighted_mean(x, torch.ones(3, 2))) == pytest.approx(float(weighted_mean(x, torch.ones(3))))


def test_uniform_proposals_are_not_calibrated() -> None:
    q_uniform = torch.full((1, 2, 1), -5.0, requires_grad=True)
    q_policy = torch.full((1, 2, 1), -5.0)
    conservative_gap(torch.zeros(1, 1), q_uniform, q_policy, torch.tensor([0.0]), temperature=1.0).sum().backward()
    assert q_uniform.grad is not None and (q_uniform.grad > 0).all()


def test_full_volume_share_silences_policy_proposals(space: CriticSpace) -> None:
    """Why CQL's importance term is off by default: even in this 6-dim box it gives them 1 part in 4000."""
    assert space.log_volume == pytest.approx(6 * math.log(4.0))
    q = torch.zeros(1, 4, 1)
    for volume_share, expected in ((0.0, 0.5), (1.0, 1 / (1 + 4.0**6))):
        q_policy = q.clone().requires_grad_()
        uniform = q + volume_share * space.log_volume
        conservative_gap(q[:, 0], uniform, q_policy, torch.tensor([-1.0]), temperature=1.0).sum().backward()
        assert q_policy.grad is not None
        assert q_policy.grad.sum().item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_critic_step_reaches_the_critic_and_nothing_else(
    index: int, make_critic: MakeCritic, make_batch: MakeBatch, space: CriticSpace, rng: torch.Generator
) -> None:
    batch = make_batch()
    batch = replace(batch, z=batch.z.requires_grad_(False), chunk=batch.chunk.requires_grad_(False))
    critic, objective = make_critic(), objectives(space)[index]
    target = make_critic(1)  # not frozen on purpose: the objective itself must not reach it
    loss, metrics = objective.loss(critic, target, batch, rng)
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in critic.parameters())
    assert all(p.grad is not None for p in objective.parameters())
    assert all(p.grad is None for p in target.parameters())
    assert all(key.startswith("critic/") and not m.requires_grad and m.ndim == 0 for key, m in metrics.items())


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_chunk_of_weight_zero_is_not_there(
    index: int, make_critic: MakeCritic, make_batch: MakeBatch, space: CriticSpace
) -> None:
    batch, critic, target = make_batch(), make_critic(), make_critic(1)
    weight = torch.ones(16)
    weight[3] = 0
    reward, mc_return = batch.reward.clone(), batch.mc_return.clone()
    reward[3], mc_return[3] = 1e6, 1e6
    losses = [
        objectives(space)[index].loss(critic, target, b, torch.Generator().manual_seed(5))[0]
        for b in (replace(batch, weight=weight), replace(batch, weight=weight, reward=reward, mc_return=mc_return))
    ]
    assert torch.equal(losses[0], losses[1])


def test_sarsa_learns_the_value_of_a_two_step_task(make_critic: MakeCritic, make_batch: MakeBatch) -> None:
    """Success after two chunks: Q = gamma^n before the first and 1 before the second."""
    batch = make_batch(b=32)
    first = torch.arange(32) < 16
    then = (torch.arange(32) + 16) % 32  # row i + 16 follows row i
    batch = replace(
        batch,
        reward=(~first).float(),
        bootstrap=torch.full((32,), 0.7),
        terminated=~first,
        next_z=batch.z[then],
        next_proprio=batch.proprio[then],
        next_chunk=batch.chunk[then],
    )
    critic = make_critic()
    target, objective, rng = frozen_copy(critic), Sarsa(SarsaCfg(pessimism=0.0)), torch.Generator()
    optimiser = torch.optim.Adam(critic.parameters(), lr=3e-3)
    for _ in range(200):
        loss, _ = objective.loss(critic, target, batch, rng)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        ema_update(target, critic, 0.1)
    q = critic.q(batch.z, batch.proprio, batch.chunk).mean(0)
    assert torch.allclose(q, torch.where(first, 0.7, 1.0), atol=0.1)


def test_iql_prefers_the_better_of_two_actions_where_sarsa_averages(rng: torch.Generator) -> None:
    """V of a state where half of the chunks earn 1 and half 0, by expectile 0.9: 0.9 / (0.9 + 0.1)."""
    b = 64
    zeros = torch.zeros(b, 6)
    good = torch.arange(b) % 2
    chunk = good[:, None, None].float().expand(b, 3, 2)
    batch = ChunkBatch(
        z=zeros,
        proprio=torch.zeros(b, 4),
        chunk=chunk,
        centre=torch.zeros(b, 3, 2),
        reward=good.float(),
        bootstrap=torch.ones(b),
        terminated=torch.ones(b, dtype=torch.bool),
        next_z=zeros,
        next_proprio=torch.zeros(b, 4),
        next_chunk=chunk,
        next_centre=torch.zeros(b, 3, 2),
        mc_return=good.float(),
        proposals=torch.zeros(b, 0, 3, 2),
        weight=torch.ones(b),
    )
    cfg = CriticCfg(2, (16,), proprio_width=4)
    critic = CriticEnsemble(cfg, z_dim=6, proprio_dim=4, chunk_shape=(3, 2), rng=rng)
    objective = IQL(IQLCfg(expectile=0.9), ValueNet(cfg, z_dim=6, proprio_dim=4, rng=rng))
    target = frozen_copy(critic)
    optimiser = torch.optim.Adam([*critic.parameters(), *objective.parameters()], lr=1e-2)
    for _ in range(300):
        loss, _ = objective.loss(critic, target, batch, rng)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        ema_update(target, critic, 0.2)
    assert objective.value(batch.z, batch.proprio).mean().item() == pytest.approx(0.9, abs=0.03)


def test_cal_ql_ranks_data_above_actions_it_never_saw(
    make_critic: MakeCritic, make_batch: MakeBatch, space: CriticSpace, rng: torch.Generator
) -> None:
    batch = make_batch(terminated=torch.ones(16, dtype=torch.bool), reward=torch.full((16,), 0.5))
    margins = []
    for weight in (0.0, 0.5):
        critic = make_critic()
        target, objective = frozen_copy(critic), CalQL(CalQLCfg(conservative_weight=weight), space)
        optimiser = torch.optim.Adam(critic.parameters(), lr=3e-3)
        metrics = {}
        for _ in range(60):
            loss, metrics = objective.loss(critic, target, batch, rng)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        margins.append(metrics["critic/uniform_margin"].item())
    assert margins[1] > margins[0] + 0.1


def test_cal_ql_says_when_proposals_are_missing(
    make_critic: MakeCritic, make_batch: MakeBatch, space: CriticSpace, rng: torch.Generator
) -> None:
    with pytest.raises(ConfigError, match="needs 4 base-policy proposals per state, the batch has 2"):
        CalQL(CalQLCfg(), space).loss(make_critic(), make_critic(), make_batch(n_proposals=2), rng)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_sarsa_blends_the_observed_return_into_its_target(
    share: float, rng: torch.Generator, make_critic: MakeCritic, make_batch: MakeBatch
) -> None:
    critic, batch = make_critic(), make_batch()
    _, metrics = Sarsa(SarsaCfg(pessimism=0.0, monte_carlo=share)).loss(critic, critic, batch, rng)
    next_q = critic.q(batch.next_z, batch.next_proprio, batch.next_chunk).mean(0)
    wanted = (1 - share) * (batch.reward + batch.bootstrap * next_q) + share * batch.mc_return
    assert torch.isclose(metrics["critic/target_mean"], wanted.mean(), atol=1e-6)
