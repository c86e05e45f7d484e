"""What every critic objective shares: the batch, the chunk-level TD target and the interface.

    R = sum_{i<n} gamma^i r_{t+i}        y = R + gamma^n (1 - terminated) V(s_{t+n})        (methods 1.6)

n is the number of steps really executed: C, or fewer where the episode ended inside the chunk. The discount lives in
the data (`reward`, `bootstrap`, `mc_return`), so an objective cannot disagree with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor, nn

from .ensemble import CriticEnsemble


@dataclass(frozen=True, eq=False)
class ChunkBatch:
    """`b` executed chunks and what followed them."""

    z: Tensor  # (b, z) RL token
    proprio: Tensor  # (b, p) normalised
    chunk: Tensor  # (b, C, d) executed, normalised; the last action repeated where the episode ended inside
    centre: Tensor  # (b, C, d) the base policy's chunk without noise at (z, proprio)
    reward: Tensor  # (b,) R, discounted within the chunk
    bootstrap: Tensor  # (b,) gamma^n
    terminated: Tensor  # (b,) bool: success or failure ended the episode; a time limit does not count
    next_z: Tensor  # (b, z)
    next_proprio: Tensor  # (b, p)
    next_chunk: Tensor  # (b, C, d) what the dataset did next; after a time limit, a base-policy sample
    next_centre: Tensor  # (b, C, d) the base policy's chunk without noise there
    mc_return: Tensor  # (b,) G, discounted return to go
    proposals: Tensor  # (b, N, C, d) base-policy chunks at (z, proprio); N = 0 where nothing needs them
    weight: Tensor  # (b,) weight of each chunk in the loss, 0 leaves it out; or (b, heads)


class CriticObjective(Protocol):
    """How a critic is trained. An nn.Module, so that IQL's value network is saved and optimised with it."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Trained beside the critic's own parameters; none for most objectives."""
        ...

    def loss(
        self, critic: CriticEnsemble, target: CriticEnsemble, batch: ChunkBatch, rng: Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss and detached scalar metrics named critic/..."""
        ...


def td_target(batch: ChunkBatch, next_value: Tensor) -> Tensor:
    """y (b,) without gradient. next_value (b,): pooled value of what follows."""
    return (batch.reward + batch.bootstrap * ~batch.terminated * next_value).detach()


def weighted_mean(x: Tensor, weight: Tensor) -> Tensor:
    """Mean over heads and weighted mean over the batch: (..., b), (b,) or (b, heads) -> scalar. Zero if all weights are."""
    if weight.ndim == 2 and x.ndim == 2:  # heads weigh chunks differently
        return ((x * weight.T).sum(1) / weight.sum(0).clamp(min=1e-8)).mean()
    shared = weight if weight.ndim == 1 else weight.mean(1)
    per_chunk = x.flatten(0, -2).mean(0) if x.ndim > 1 else x  # (b,)
    return (per_chunk * shared).sum() / shared.sum().clamp(min=1e-8)


def td_loss(q: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """mean_m (Q_m - y)^2: (heads, b), (b,), (b,) or (b, heads) -> scalar."""
    return weighted_mean((q - y).square(), weight)


@torch.no_grad()
def td_metrics(q: Tensor, y: Tensor, batch: ChunkBatch) -> dict[str, Tensor]:
    """q (heads, b), y (b,) -> the scalars every objective logs."""
    return {
        "critic/td_loss": td_loss(q, y, batch.weight),
        "critic/q_mean": weighted_mean(q, batch.weight),
        "critic/target_mean": weighted_mean(y, batch.weight),
        "critic/return_error": weighted_mean((q.mean(0) - batch.mc_return).abs(), batch.weight),
        "critic/head_std": weighted_mean(q.std(0, correction=0), batch.weight),
    }
