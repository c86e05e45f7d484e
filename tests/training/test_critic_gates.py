"""Every gate passes a critic that knows and fails one that shows the fault it looks for (methods 2.6)."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from armflow.robot.errors import ConfigError
from armflow.training.critics import gates
from armflow.training.critics.ascent import AscentCfg, ascend
from armflow.training.critics.ensemble import CriticCfg, CriticEnsemble
from armflow.training.critics.gate_report import GateReport
from armflow.training.critics.gates import GateCfg, critic_gates
from armflow.training.critics.objective import ChunkBatch
from armflow.training.critics.qfunction import QFunction
from armflow.training.critics.space import CriticSpace
from armflow.training.extraction.controls import constant_direction

CFG = GateCfg(ascent=AscentCfg(grad_clip=0.1))
B, N = 64, 16

MakeBatch = Callable[..., ChunkBatch]


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def task() -> ChunkBatch:
    """State-dependent task: the return is a state term minus the distance to an action that z names."""
    g = torch.Generator().manual_seed(7)
    b = 512
    z = torch.randn(b, 6, generator=g)
    wish = z.view(b, 3, 2) * 0.3

    def drawn(*lead: int) -> torch.Tensor:
        return wish.unsqueeze(1).expand(b, *lead, 3, 2) + 0.3 * torch.randn(b, *lead, 3, 2, generator=g)

    chunk = drawn(1)[:, 0]
    mc_return = 0.3 * torch.sin(2 * z[:, 0]) - 0.5 * (chunk - wish).square().sum((-2, -1))
    return ChunkBatch(
        z=z,
        proprio=torch.randn(b, 4, generator=g),
        chunk=chunk,
        centre=torch.zeros(b, 3, 2),
        reward=mc_return,
        bootstrap=torch.ones(b),
        terminated=torch.ones(b, dtype=torch.bool),
        next_z=z,
        next_proprio=torch.zeros(b, 4),
        next_chunk=chunk,
        next_centre=torch.zeros(b, 3, 2),
        mc_return=mc_return,
        proposals=drawn(N),
        weight=torch.ones(b),
    )


def rows(batch: ChunkBatch, index: slice) -> ChunkBatch:
    return replace(batch, **{name: value[index] for name, value in vars(batch).items()})


@pytest.fixture(scope="module")
def trained(task: ChunkBatch) -> CriticEnsemble:
    critic = CriticEnsemble(
        CriticCfg(4, (64, 64), proprio_width=8),
        z_dim=6,
        proprio_dim=4,
        chunk_shape=(3, 2),
        rng=torch.Generator().manual_seed(0),
    )
    fit(critic, rows(task, slice(0, 448)))
    return critic


def fit(critic: CriticEnsemble, batch: ChunkBatch) -> None:
    """Regression on chunks around the data; what a perfect objective would converge to."""
    optimiser = torch.optim.Adam(critic.parameters(), lr=5e-3)
    g = torch.Generator().manual_seed(1)
    for _ in range(300):
        index = torch.randint(len(batch.z), (128,), generator=g)
        z, wish = batch.z[index], batch.z[index].view(-1, 3, 2) * 0.3
        chunk = wish + torch.rand(128, 1, 1, generator=g) * torch.randn(128, 3, 2, generator=g)
        y = 0.3 * torch.sin(2 * z[:, 0]) - 0.5 * (chunk - wish).square().sum((-2, -1))
        loss = (critic.q(z, batch.proprio[index], chunk) - y).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def all_gates(critic: CriticEnsemble, held_out: ChunkBatch, space: CriticSpace, rng: torch.Generator) -> GateReport:
    """On actions, and on returns of rows that no head has seen."""
    with torch.no_grad():
        q = critic.q(held_out.z, held_out.proprio, held_out.chunk).mean(0)
    on_returns = gates.return_gates(q, held_out.mc_return, CFG)
    return GateReport((*critic_gates(critic, held_out, space, CFG, rng).gates, *on_returns.gates))


def named(report: GateReport, name: str) -> gates.Gate:
    (gate,) = [g for g in report.gates if g.name == name]
    return gate


def test_a_critic_that_knows_the_task_may_teach(
    trained: CriticEnsemble, task: ChunkBatch, space: CriticSpace, rng: torch.Generator
) -> None:
    report = all_gates(trained, rows(task, slice(448, None)), space, rng)
    assert report.passed, str(report)
    assert len(report.gates) == 9


def test_an_untrained_critic_may_not(
    make_critic: Callable[..., CriticEnsemble], task: ChunkBatch, space: CriticSpace, rng: torch.Generator
) -> None:
    report = all_gates(make_critic(), rows(task, slice(0, 64)), space, rng)
    assert not report.passed
    assert {"return ranking", "head disagreement"} <= {gate.name for gate in report.failures}


def test_a_critic_that_ignores_the_action_is_caught(
    trained: CriticEnsemble, task: ChunkBatch, space: CriticSpace, rng: torch.Generator
) -> None:
    blind = copy.deepcopy(trained)
    with torch.no_grad():
        for layer in blind.action_layers:
            layer.get_parameter("weight").mul_(1e-3)
    report = critic_gates(blind, rows(task, slice(448, None)), space, CFG, rng)
    assert not named(report, "action sensitivity").passed
    assert not report.passed


def test_gates_change_neither_critic_nor_its_gradients(
    trained: CriticEnsemble, task: ChunkBatch, space: CriticSpace, rng: torch.Generator
) -> None:
    before = [p.clone() for p in trained.parameters()]
    grads = [None if p.grad is None else p.grad.clone() for p in trained.parameters()]
    critic_gates(trained, rows(task, slice(448, None)), space, CFG, rng)
    for p, old, grad in zip(trained.parameters(), before, grads, strict=True):
        assert torch.equal(p, old) and p.dtype == torch.float32
        assert (p.grad is None) == (grad is None)
        assert p.grad is None or grad is None or torch.equal(p.grad, grad)


def test_gates_climb_in_the_unit_of_the_policy_update(
    trained: CriticEnsemble, task: ChunkBatch, space: CriticSpace, rng: torch.Generator
) -> None:
    held_out, cfg = rows(task, slice(448, None)), GateCfg(ascent=AscentCfg(grad_clip=1e3))
    moved = [
        named(critic_gates(trained, held_out, space, cfg, rng, q_std=s), "global direction").numbers for s in (1.0, 0.5)
    ]
    assert moved[1]["displacement"] > 1.5 * moved[0]["displacement"]


def test_one_direction_for_all_states_is_caught(space: CriticSpace) -> None:
    start = 0.1 * randn(N, B, 3, 2)

    def explained(q_fn: QFunction) -> gates.Gate:
        return gates.global_direction(ascend(q_fn, start, space, CFG.ascent), start, CFG)

    assert explained(constant_direction(randn(3, 2))).value == pytest.approx(1.0)
    wishes = randn(B, 3, 2, seed=1)
    ideal = explained(lambda chunk: -(chunk - wishes).square().sum((-2, -1))[None])
    assert ideal.passed and ideal.value < 0.35  # 1/6 if all directions were alike
    nobody_moves = explained(lambda chunk: 0 * chunk.sum((-2, -1))[None])
    assert math.isnan(nobody_moves.value) and not nobody_moves.passed


def test_a_shared_direction_is_measured_about_zero_not_about_its_mean(space: CriticSpace) -> None:
    """Displacements c + noise share c: subtracting the mean first would hide exactly the bias looked for."""
    start = torch.zeros(B, 3, 2)
    ascent = ascend(constant_direction(torch.ones(3, 2)), start, space, CFG.ascent)
    noisy = replace(ascent, chunk=ascent.chunk + 0.01 * ascent.chunk.norm() / B * randn(B, 3, 2))
    assert gates.global_direction(noisy, start, CFG).value > 0.9


def test_error_and_ranking_against_returns() -> None:
    g = randn(200)
    good, inverted = g + 0.2 * randn(200, seed=1), -g
    assert gates.return_gates(good, g, CFG).passed
    assert not gates.return_error(inverted, g, CFG).passed and not gates.return_ranking(inverted, g, CFG).passed
    constant = g.mean().expand(200)
    assert gates.return_error(constant, g, CFG).value == pytest.approx(1.0)
    assert math.isnan(gates.return_ranking(constant, g, CFG).value)
    # a monotone transformation ranks as well, but its error shows
    stretched = 10 * g.exp()
    assert gates.return_ranking(stretched, g, CFG).value == pytest.approx(1.0)
    assert not gates.return_error(stretched, g, CFG).passed


def test_a_gradient_that_is_not_qs_is_caught(rng: torch.Generator) -> None:
    def honest(chunk: torch.Tensor) -> torch.Tensor:
        return chunk.square().sum((-2, -1))[None]

    def half_detached(chunk: torch.Tensor) -> torch.Tensor:
        return (chunk * chunk.detach()).sum((-2, -1))[None]

    chunk = randn(B, 3, 2).double()
    assert gates.gradient_error(honest, chunk, CFG, rng).passed
    assert gates.gradient_error(half_detached, chunk, CFG, rng).value == pytest.approx(1.0, abs=1e-3)  # half of it


def test_a_step_longer_than_the_gradient_reaches_is_caught(space: CriticSpace) -> None:
    chunk = 0.3 * randn(B, 3, 2)
    cfg = GateCfg(ascent=AscentCfg(step_size=1.0, grad_clip=1.0))
    smooth = gates.gradient_ordering(constant_direction(torch.ones(3, 2)), chunk, space, cfg)
    ripples = gates.gradient_ordering(lambda a: torch.sin(30 * a).sum((-2, -1))[None], chunk, space, cfg)
    assert smooth.value == 1.0 and smooth.passed
    assert not ripples.passed


def test_a_critic_that_cannot_tell_whose_action_it_is_is_caught() -> None:
    chunk = randn(B, 3, 2)
    mine = gates.own_action(lambda a: -(a - chunk).square().sum((-2, -1))[None], chunk, CFG)
    nobody = gates.own_action(lambda a: a.square().sum((-2, -1))[None], chunk, CFG)
    indifferent = gates.own_action(lambda a: 0 * a.sum((-2, -1))[None], chunk, CFG)
    assert mine.value == 1.0
    assert not nobody.passed and indifferent.value == 0.5


def test_heads_that_share_only_noise_are_caught() -> None:
    n_heads = 9
    noise_only = randn(n_heads, N, 500)
    gate = gates.head_disagreement(noise_only, CFG)
    assert gate.value == pytest.approx(math.sqrt(n_heads), rel=0.1) and not gate.passed
    agreeing = randn(1, N, 500, seed=1) + 0.2 * noise_only
    assert gates.head_disagreement(agreeing, CFG).passed
    # a disagreement about the state only changes no choice
    offsets = randn(1, N, 500, seed=1) + 5 * randn(n_heads, 1, 500, seed=2)
    assert gates.head_disagreement(offsets, CFG).value == pytest.approx(0.0, abs=1e-5)


def test_over_optimisation_shows_as_gain_that_other_heads_do_not_confirm() -> None:
    noise_only, signal = randn(8, N, 500), randn(1, N, 500, seed=1)
    fooled, sound = gates.confirmed_gain(noise_only, CFG), gates.confirmed_gain(signal + 0.1 * noise_only, CFG)
    assert not fooled.passed and abs(fooled.value) < 0.1
    assert sound.passed and sound.value > 0.9
    chosen = [fooled.numbers[f"chosen_{n}"] for n in (2, 4, 8, 16)]
    assert chosen == sorted(chosen)  # what the chooser believes grows with N all the same


def test_environment_gate_is_an_exact_sign_test() -> None:
    gate = gates.beats_base(5, 1, 7, CFG)
    assert gate.numbers == {"wins": 5.0, "losses": 1.0, "episodes": 7.0}
    assert gate.value == pytest.approx(7 / 64)  # P(at least 5 of 6)
    assert not gate.passed
    assert gates.beats_base(10, 0, 20, CFG).passed
    assert gates.beats_base(0, 0, 9, CFG).value == 1.0
    assert not gates.beats_base(0, 20, 20, CFG).passed


def test_report_survives_json_and_explains_itself(
    trained: CriticEnsemble, task: ChunkBatch, space: CriticSpace, rng: torch.Generator
) -> None:
    cfg = replace(CFG, max_global_direction=0.0)
    report = critic_gates(trained, rows(task, slice(448, None)), space, cfg, rng)
    unmeasured = replace(report.gates[0], value=math.nan)
    report = GateReport((*report.gates, unmeasured))
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["passed"] is False
    back = GateReport.from_dict(data)
    assert [g.name for g in back.failures] == ["global direction", "action sensitivity"]
    assert back.gates[:-1] == report.gates[:-1] and math.isnan(back.gates[-1].value)
    assert "FAIL  global direction" in str(report) and "pass  action sensitivity" in str(report)


def test_too_few_heads_or_proposals_are_refused(
    make_critic: Callable[..., CriticEnsemble], make_batch: MakeBatch, space: CriticSpace, rng: torch.Generator
) -> None:
    with pytest.raises(ConfigError, match="at least 2 heads and 2 proposals"):
        critic_gates(make_critic(n_heads=1), make_batch(), space, CFG, rng)
    with pytest.raises(ConfigError, match="4 and 1"):
        critic_gates(make_critic(), make_batch(n_proposals=1), space, CFG, rng)
