"""The critic at fixed states, as every method that climbs or compares actions sees it."""

from collections.abc import Callable

import torch
from torch import Tensor

QFunction = Callable[[Tensor], Tensor]
"""Chunks (..., b, C, d) -> (heads, ..., b): Q of `b` fixed states; leading dims are more candidates per state."""


def pool(q: Tensor, pessimism: float) -> Tensor:
    """mean - pessimism * std over heads, population std: (heads, ...) -> (...).

    With two heads, pessimism 1 is exactly their minimum.
    """
    mean = q.mean(0)
    if pessimism == 0:
        return mean
    return mean - pessimism * q.std(0, correction=0)


def scaled(q_fn: QFunction, q_std: float) -> QFunction:
    """Q in units of its standard deviation over the data, so that guidance weights and gradient clips mean the same
    for every reward scale."""
    return lambda chunk: q_fn(chunk) / q_std


def advantage(q_fn: QFunction, chunk: Tensor) -> QFunction:
    """Every head's Q over its own Q of `chunk` (b, C, d): what the heads disagree on about the states themselves is left
    out, so that a lower confidence bound is one of what the action adds."""
    there = q_fn(chunk).detach()  # (heads, b)
    return lambda x: q_fn(x) - there.view(len(there), *(1,) * (x.ndim - 3), -1)


def value_and_gradient(q_fn: QFunction, chunk: Tensor, pessimism: float = 0.0) -> tuple[Tensor, Tensor]:
    """Pooled Q (..., b) and its gradient at `chunk` (..., b, C, d). Leaves no gradient on any parameter."""
    with torch.enable_grad():
        leaf = chunk.detach().requires_grad_()
        q = pool(q_fn(leaf), pessimism)
        (grad,) = torch.autograd.grad(q.sum(), leaf)
    return q.detach(), grad


def clip_norm(g: Tensor, max_norm: float) -> Tensor:
    """g min(1, max_norm / ||g||), the norm over one chunk (..., C, d)."""
    norm = torch.linalg.vector_norm(g, dim=(-2, -1), keepdim=True)
    return g * (max_norm / norm.clamp(min=max_norm))
