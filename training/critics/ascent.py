"""Projected, clipped gradient ascent on a chunk that keeps the best point it saw (methods 5.1).

Shared by Q-VGM (targets of the policy), Q-guidance (the final action) and the critic gates.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...robot.errors import ArmflowError, ConfigError
from .qfunction import QFunction, pool, value_and_gradient
from .space import CriticSpace


@dataclass(frozen=True)
class AscentCfg:
    """J steps A <- Proj[A + step_size clip_G(grad Q)]; the chunk moves at most J * step_size * grad_clip."""

    ascent_steps: int = 5  # J, steps uphill
    step_size: float = 0.02  # units of `CriticSpace.uphill` per unit of clipped gradient; 0 leaves every chunk alone
    grad_clip: float = 1.0  # G, L2 norm over the executed chunk; far below the usual norm, every step has length G
    pessimism: float = 0.0  # rho: what is climbed and compared is mean - rho std over heads

    def __post_init__(self) -> None:
        if self.ascent_steps < 0 or self.step_size < 0 or self.grad_clip <= 0:
            raise ConfigError(f"ascent: ascent_steps and step_size must be >= 0 and grad_clip > 0, got {self}")


def embedded_ascent() -> AscentCfg:
    """For pi05-mini: steps of at most one deviation along the directions of `CriticSpace`, up a lower confidence bound."""
    return AscentCfg(ascent_steps=5, step_size=50.0, grad_clip=0.02, pessimism=1.0)


@dataclass(frozen=True, eq=False)
class Ascent:
    """Where an ascent ended, for chunks (..., b, C, d)."""

    chunk: Tensor  # (..., b, C, d) best of the J + 1 points
    best_step: Tensor  # (..., b) int, 0 where nothing beat the start
    q_start: Tensor  # (..., b)
    q_best: Tensor  # (..., b) >= q_start


def ascend(q_fn: QFunction, start: Tensor, space: CriticSpace, cfg: AscentCfg) -> Ascent:
    """Climb from `start` (..., b, C, d). Raises if the critic is not finite at the start."""
    start = start.detach().float()
    a = best = start
    q_start = q_best = torch.empty(0)
    best_step = torch.empty(0)
    for j in range(cfg.ascent_steps + 1):
        if j < cfg.ascent_steps:
            q, grad = value_and_gradient(q_fn, a, cfg.pessimism)
        else:
            with torch.no_grad():
                q, grad = pool(q_fn(a), cfg.pessimism), None

        # j* = argmax_j Q(A^j), ties to the smallest j
        if j == 0:
            q_start = q_best = q
            best_step = torch.zeros_like(q, dtype=torch.long)
        else:
            better = q > q_best
            q_best = torch.where(better, q, q_best)
            best = torch.where(better[..., None, None], a, best)
            best_step = torch.where(better, j, best_step)

        if grad is not None:
            a = space.project(a + cfg.step_size * space.uphill(grad, cfg.grad_clip), start)
    if not bool(torch.isfinite(q_start).all()):
        raise ArmflowError("ascent: the critic returned NaN or infinity; check its inputs and its training curve")
    return Ascent(best, best_step, q_start, q_best)
