"""Flow-matching maths in our time convention (methods 1.1): t = 1 is noise, t = 0 a clean action.

x_t = (1 - t) A + t eps        v = eps - A        Euler: x <- x - v / K        A_hat = x - t v
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from .policy import Context, VelocityField

# pi0.5 draws training times from Beta(1.5, 1) scaled into [0.001, 1]: more mass near noise (LeRobot configuration).
TIME_BETA = (1.5, 1.0)
TIME_SCALE, TIME_OFFSET = 0.999, 0.001

Guidance = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x, v, t) -> v': changes the velocity inside the sampler. x, v: (b, h, d); t: (b,)."""


def expand(t: Tensor) -> Tensor:
    """(b,) -> (b, 1, 1), to broadcast over chunks."""
    return t[:, None, None]


def sample_time(n: int, rng: Generator) -> Tensor:
    """(n,) training times. Beta(a, 1) by inversion: U^(1/a)."""
    a, _ = TIME_BETA
    return torch.rand(n, generator=rng) ** (1.0 / a) * TIME_SCALE + TIME_OFFSET


def interpolate(actions: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t on the straight path from clean actions to noise."""
    return (1 - expand(t)) * actions + expand(t) * noise


def flow_matching_loss(v: Tensor, actions: Tensor, noise: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error to eps - A over valid steps and all dims. valid: (b, h) bool."""
    error = (v.float() - (noise - actions)).square().mean(-1)  # (b, h)
    return (error * valid).sum() / valid.sum().clamp(min=1)


def clean_estimate(x: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """A_hat = x - t v: where the current velocity leads."""
    return x - expand(t) * v


def times(flow_steps: int) -> Tensor:
    """t_k = 1 - k / K for k = 0 .. K - 1."""
    return 1.0 - torch.arange(flow_steps) / flow_steps


def sample(
    field: VelocityField, ctx: Context, noise: Tensor, *, flow_steps: int, guidance: Guidance | None = None
) -> Tensor:
    """Integrate from noise (b, h, d) to a clean chunk in flow space with `flow_steps` Euler steps."""
    x = noise
    for t_k in times(flow_steps).to(noise):
        t = t_k.expand(x.shape[0])
        v = field.velocity(ctx, x, t)
        if guidance is not None:
            v = guidance(x, v, t)
        x = x - v / flow_steps
    return x
