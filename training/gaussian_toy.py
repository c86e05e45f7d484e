"""A policy whose every quantity is known in closed form (methods 1.3): the clean chunk is N(mean, std^2) per entry.

Lets sampling, guidance and policy extraction be checked against exact numbers without training anything.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .flow import expand
from .policy import Context


@dataclass(frozen=True)
class GaussianFlow:
    """Exact velocity field of N(mean, std^2) in every entry of the chunk; the context is ignored."""

    mean: float = 0.3
    std: float = 0.5  # 0: the policy is a single action
    chunk_size: int = 1
    action_dim: int = 1

    def velocity(self, ctx: Context, x: Tensor, t: Tensor) -> Tensor:
        """v = ((t - (1-t) s^2) / D) (x - (1-t) mu) - mu,  D = t^2 + (1-t)^2 s^2."""
        del ctx
        t = expand(t)
        s2 = self.std**2
        d = t**2 + (1 - t) ** 2 * s2
        return (t - (1 - t) * s2) / d * (x - (1 - t) * self.mean) - self.mean


def empty_context(b: int) -> Context:
    """A context that says nothing, for policies that do not look."""
    nothing = torch.zeros(b, 0, 0, 0)
    return Context(
        keys=nothing,
        values=nothing,
        tokens=torch.zeros(b, 0, 0),
        mask=torch.zeros(b, 0, dtype=torch.bool),
        state=torch.zeros(b, 8),
    )
