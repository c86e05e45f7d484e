"""The analytic Gaussian policy, and the two time conventions on it (methods 1.1, 1.3; T1)."""

import pytest
import torch
from armflow.training.flow import clean_estimate, sample, times
from armflow.training.gaussian_toy import GaussianFlow, empty_context
from armflow.training.time_convention import from_orig, to_orig

MU, S = 0.3, 0.5


def noise(n: int = 64) -> torch.Tensor:
    return torch.randn(n, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_ten_euler_steps_map_noise_by_the_known_slope() -> None:
    z = noise()
    a = sample(GaussianFlow(MU, S), empty_context(len(z)), z, flow_steps=10)
    assert torch.allclose(a, 0.3 + 0.43078 * z, atol=1e-5)


def test_many_euler_steps_reach_the_policy_itself() -> None:
    z = noise()
    a = sample(GaussianFlow(MU, S), empty_context(len(z)), z, flow_steps=2000)
    assert torch.allclose(a, MU + S * z, atol=2e-3)  # first order: error about 4e-4 |z|


@pytest.mark.parametrize("t", [0.1, 0.5, 1.0])
def test_clean_estimate_is_the_posterior_mean(t: float) -> None:
    x = noise()
    tt = torch.full((len(x),), t, dtype=x.dtype)
    v = GaussianFlow(MU, S).velocity(empty_context(len(x)), x, tt)
    d = t**2 + (1 - t) ** 2 * S**2
    posterior = MU + (1 - t) * S**2 / d * (x - (1 - t) * MU)
    assert torch.allclose(clean_estimate(x, v, tt), posterior, atol=1e-12)


def test_a_policy_without_spread_always_does_the_same() -> None:
    a = sample(GaussianFlow(MU, 0.0), empty_context(64), noise(), flow_steps=10)
    assert torch.allclose(a, torch.full_like(a, MU), atol=1e-12)


def test_both_time_conventions_give_the_same_path() -> None:
    field, ctx, z, flow_steps = GaussianFlow(MU, S), empty_context(64), noise(), 10
    u = to_orig(field, ctx)
    x = z
    for k in range(flow_steps):  # x <- x + h u(x, tau_k), tau_k = k h
        x = x + u(x, torch.full((64,), k / flow_steps, dtype=x.dtype)) / flow_steps
    assert torch.allclose(x, sample(field, ctx, z, flow_steps=flow_steps), atol=1e-6)


def test_time_conversion_inverts_itself_and_flips_both_time_and_sign() -> None:
    field, ctx, x = GaussianFlow(MU, S), empty_context(64), noise()
    t = torch.full((64,), 0.3, dtype=x.dtype)
    v = field.velocity(ctx, x, t)
    assert torch.allclose(from_orig(to_orig(field, ctx))(x, t), v, atol=1e-12)
    assert torch.allclose(to_orig(field, ctx)(x, 1 - t), -v, atol=1e-12)
    assert not torch.allclose(to_orig(field, ctx)(x, t), -v, atol=1e-2)


def test_times_start_at_noise_and_never_reach_clean() -> None:
    assert times(4).tolist() == [1.0, 0.75, 0.5, 0.25]
