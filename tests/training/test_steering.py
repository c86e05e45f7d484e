"""Best-of-N and Q-guidance (methods 9.1, 10.1; T9.1 to T9.3, T10.1 to T10.3; T9, T10, T11 of section 12)."""

from collections.abc import Callable

import pytest
import torch
from armflow.training.critics.ascent import AscentCfg
from armflow.training.critics.ensemble import CriticEnsemble
from armflow.training.critics.qfunction import QFunction, scaled
from armflow.training.critics.space import CriticSpace
from armflow.training.extraction.controls import constant_direction
from armflow.training.flow import sample
from armflow.training.gaussian_toy import GaussianFlow, empty_context
from armflow.training.policy import Context
from armflow.training.steering.best_of_n import BestOfNCfg, best_of_n, candidate_noise
from armflow.training.steering.q_guidance import QGFCfg, climb, qgf

K = 10
WIDE = CriticSpace(torch.full((1, 1), -50.0), torch.full((1, 1), 50.0))
SLOPE = constant_direction(torch.ones(1, 1))  # Q = A


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_one_candidate_is_the_base(rng: torch.Generator) -> None:
    field, ctx = GaussianFlow(chunk_size=5, action_dim=3), empty_context(7)
    space = CriticSpace(-torch.ones(3, 2), torch.ones(3, 2))
    cfg = BestOfNCfg(n_candidates=1)
    eps = candidate_noise(field, 7, cfg, rng)
    chosen = best_of_n(field, ctx, eps, constant_direction(torch.ones(3, 2)), space, cfg)
    assert torch.equal(chosen.x, sample(field, ctx, eps[0], flow_steps=K))


def test_selected_q_grows_with_nested_candidates(
    make_critic: Callable[..., CriticEnsemble], space: CriticSpace
) -> None:
    field, ctx = GaussianFlow(chunk_size=4, action_dim=3), empty_context(9)
    q_fn = make_critic().at(noise(9, 6), noise(9, 4, seed=1))
    eps = noise(16, 9, 4, 3)
    best = torch.full((9,), -torch.inf)
    for n in (1, 2, 4, 8, 16):
        chosen = best_of_n(field, ctx, eps[:n], q_fn, space, BestOfNCfg())
        q = chosen.q.gather(0, chosen.index[None])[0]
        assert (q >= best - 1e-6).all()  # rounding depends on the size of the product
        assert torch.equal(q, chosen.q.max(0).values)
        best = q


def test_candidates_of_different_states_do_not_mix() -> None:
    """State i wants action i: a mix-up of states and candidates would pick by another state's wish."""
    wish = torch.linspace(-1, 1, 6)

    def q_fn(chunk: torch.Tensor) -> torch.Tensor:  # (..., 6, 1, 1)
        return -(chunk[..., 0, 0] - wish).square()[None]

    chosen = best_of_n(GaussianFlow(0.0, 1.0), empty_context(6), noise(256, 6, 1, 1), q_fn, WIDE, BestOfNCfg())
    assert torch.allclose(chosen.x[:, 0, 0], wish, atol=0.1)


def test_every_candidate_is_sampled_under_its_own_context() -> None:
    class Looking(GaussianFlow):
        def velocity(self, ctx: Context, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return super().velocity(ctx, x, t) - ctx.state[:, :1, None]  # moves the action by state

    ctx = empty_context(5)
    ctx.state[:, 0] = torch.arange(5.0)
    field, eps = Looking(), noise(3, 5, 1, 1)
    chosen = best_of_n(field, ctx, eps, SLOPE, WIDE, BestOfNCfg())
    for n in range(3):
        assert torch.allclose(chosen.candidates[n], sample(field, ctx, eps[n], flow_steps=K), atol=1e-6)


@pytest.mark.parametrize(
    ("n", "expected"), [(2, 0.5642), (4, 1.0294), (5, 1.1630), (8, 1.4236), (16, 1.7660), (32, 2.0697)]
)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_best_of_n_moves_the_mean_by_the_expected_maximum(n: int, expected: float, sign: float) -> None:
    states, slope = 40_000, 0.43078  # of A in z after 10 Euler steps from N(0.3, 0.5^2)
    q_fn = constant_direction(sign * torch.ones(1, 1))
    chosen = best_of_n(GaussianFlow(), empty_context(states), noise(n, states, 1, 1), q_fn, WIDE, BestOfNCfg())
    assert ((chosen.x.mean() - 0.3) / slope).item() == pytest.approx(sign * expected, abs=0.02)


@pytest.mark.parametrize("weight", [1.0, -0.3])
def test_qgf_shifts_the_gaussian_by_its_closed_form(weight: float) -> None:
    """T9.1: 0.811238 w g at ten steps, for every noise."""
    field, ctx, eps = GaussianFlow(), empty_context(16), noise(16, 1, 1)
    guided = sample(field, ctx, eps, flow_steps=K, guidance=qgf(SLOPE, WIDE, QGFCfg(weight=weight)))
    shift = guided - sample(field, ctx, eps, flow_steps=K)
    assert torch.allclose(shift, torch.full_like(shift, 0.811238 * weight), atol=1e-5)


def test_qgf_in_the_limit_of_many_steps() -> None:
    field, ctx, eps = GaussianFlow(), empty_context(1), noise(1, 1, 1)
    guided = sample(field, ctx, eps, flow_steps=2000, guidance=qgf(SLOPE, WIDE, QGFCfg()))
    shift = guided - sample(field, ctx, eps, flow_steps=2000)
    assert shift.item() == pytest.approx(0.860818, abs=1e-3)


def test_qgf_does_not_differentiate_through_the_policy() -> None:
    """The gradient at one point is that of Q at the clean estimate, without the factor dAhat/dx = J."""
    x, t, s2 = torch.tensor([[[0.7]]]), torch.tensor([0.4]), 0.25
    v = GaussianFlow().velocity(empty_context(1), x, t)
    change = qgf(SLOPE, WIDE, QGFCfg())(x, v, t) - v
    jacobian = 0.6 * s2 / (0.4**2 + 0.6**2 * s2)
    assert change.item() == pytest.approx(-1.0, abs=1e-6)
    assert abs(change.item() + jacobian) > 0.3


def test_qgf_is_silent_outside_the_box() -> None:
    box = CriticSpace(torch.full((1, 1), -0.1), torch.full((1, 1), 0.1))
    x, v, t = torch.tensor([[[3.0]], [[0.05]]]), torch.zeros(2, 1, 1), torch.tensor([0.5, 0.5])
    change = qgf(SLOPE, box, QGFCfg())(x, v, t)
    assert change.flatten().tolist() == [0.0, -1.0]


def test_guidance_touches_executed_real_entries_only(space: CriticSpace) -> None:
    q_fn = constant_direction(torch.ones(3, 2))
    field, ctx, eps = GaussianFlow(chunk_size=7, action_dim=4), empty_context(5), noise(5, 7, 4)
    x = sample(field, ctx, eps, flow_steps=K)
    executed = space.embed(torch.ones(5, 3, 2), like=x) > 0
    for moved in (
        climb(x, q_fn, space, AscentCfg()),
        sample(field, ctx, eps, flow_steps=K, guidance=qgf(q_fn, space, QGFCfg(weight=0.1))),
    ):
        assert (moved[executed] > x[executed]).all()
        assert torch.equal(moved[~executed], x[~executed])


def test_zero_strength_is_the_base_bit_for_bit(make_critic: Callable[..., CriticEnsemble], space: CriticSpace) -> None:
    field, ctx, eps = GaussianFlow(std=2.0, chunk_size=7, action_dim=4), empty_context(32), noise(32, 7, 4)
    q_fn = make_critic().at(noise(32, 6), noise(32, 4, seed=1))
    x = sample(field, ctx, eps, flow_steps=K)
    assert (space.view(x).abs() > 2).any()  # some start outside the box, where a projection would move them
    assert torch.equal(climb(x, q_fn, space, AscentCfg(step_size=0.0)), x)
    assert torch.equal(climb(x, q_fn, space, AscentCfg(ascent_steps=0)), x)
    assert torch.equal(sample(field, ctx, eps, flow_steps=K, guidance=qgf(q_fn, space, QGFCfg(weight=0.0))), x)
    before = x.clone()
    climb(x, q_fn, space, AscentCfg(step_size=0.5))
    assert torch.equal(x, before)  # the argument is not written to


@pytest.mark.parametrize("method", ["selection", "after", "inside"])
def test_steering_raises_q_and_steering_against_it_lowers_q(
    method: str, make_critic: Callable[..., CriticEnsemble], space: CriticSpace
) -> None:
    """T10, T11: over random smooth critics; judged by the true one."""
    field, ctx, eps = GaussianFlow(chunk_size=4, action_dim=3), empty_context(16), noise(4, 16, 4, 3)

    def steered(q_fn: QFunction) -> torch.Tensor:
        if method == "selection":
            return best_of_n(field, ctx, eps, q_fn, space, BestOfNCfg(pessimism=0.0)).x
        if method == "after":
            return climb(sample(field, ctx, eps[0], flow_steps=K), q_fn, space, AscentCfg(step_size=0.05))
        return sample(field, ctx, eps[0], flow_steps=K, guidance=qgf(q_fn, space, QGFCfg(weight=0.2)))

    base = space.view(sample(field, ctx, eps[0], flow_steps=K))
    up = down = 0
    for seed in range(20):
        q_fn = make_critic(seed).at(noise(16, 6, seed=seed), noise(16, 4, seed=seed + 100))
        q_base = q_fn(base).mean()
        up += bool(q_fn(space.view(steered(q_fn))).mean() > q_base)
        down += bool(q_fn(space.view(steered(scaled(q_fn, -1.0)))).mean() < q_base)
    assert up >= 19
    assert down >= 19


def test_steering_leaves_no_gradient_on_the_critic(
    make_critic: Callable[..., CriticEnsemble], space: CriticSpace
) -> None:
    critic = make_critic()
    q_fn = critic.at(noise(4, 6), noise(4, 4))
    x = noise(4, 4, 3)
    climb(x, q_fn, space, AscentCfg())
    qgf(q_fn, space, QGFCfg())(x, x, torch.ones(4))
    assert all(p.grad is None for p in critic.parameters())
