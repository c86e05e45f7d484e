"""Q-selection: sample several chunks from the policy, execute the one the critic likes best (methods 10.1)."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..critics.qfunction import QFunction, pool
from ..critics.space import CriticSpace
from ..flow import sample
from ..policy import Context, VelocityField


@dataclass(frozen=True)
class BestOfNCfg:
    n_candidates: int = 8  # N; too many find the critic's errors: Q rises while success falls (methods 13.4)
    flow_steps: int = 10  # K
    pessimism: float = 0.5  # rho: candidates on which the heads disagree lose


@dataclass(frozen=True, eq=False)
class Selection:
    """The chosen chunk of each state and what it was chosen from."""

    x: Tensor  # (b, h, d) flow space
    index: Tensor  # (b,) which candidate
    candidates: Tensor  # (N, b, h, d)
    q: Tensor  # (N, b) pooled


def candidate_noise(field: VelocityField, b: int, cfg: BestOfNCfg, rng: Generator) -> Tensor:
    """(N, b, h, d)"""
    return torch.randn(cfg.n_candidates, b, field.chunk_size, field.action_dim, generator=rng, device=rng.device)


def best_of_n(
    field: VelocityField, ctx: Context, noise: Tensor, q_fn: QFunction, space: CriticSpace, cfg: BestOfNCfg
) -> Selection:
    """argmax_n Q(s, A_n). noise: (N, b, h, d); the prefix is computed once, its cache repeated."""
    n, b = noise.shape[:2]
    with torch.no_grad():
        flat = noise.transpose(0, 1).flatten(0, 1)  # (b N, h, d): each state N times in a row
        x = sample(field, ctx.repeat_interleave(n), flat, flow_steps=cfg.flow_steps)
        candidates = x.unflatten(0, (b, n)).transpose(0, 1)  # (N, b, h, d)
        q = pool(q_fn(space.view(candidates).float()), cfg.pessimism)  # (N, b)
    index = q.argmax(0)  # (b,) the first of equals
    return Selection(candidates[index, torch.arange(b, device=index.device)], index, candidates, q)
