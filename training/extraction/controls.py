"""Critics that must not help: the controls beside every Q-VGM result (methods 2.6, 5.5 d, 5.6).

An improvement that `no_op` shows too is an accident of training; one that `constant_direction` shows too is a constant
bias on the actions, not something the critic knows about the state.
"""

import torch
from torch import Tensor

from ..critics.qfunction import QFunction, clip_norm, value_and_gradient


def no_op() -> QFunction:
    """Q = 0: every target is the base's own look-forward."""
    return lambda chunk: 0.0 * chunk.sum((-2, -1))[None]


def constant_direction(m: Tensor) -> QFunction:
    """q = <m, A> in every state. m: (C, d)."""
    return lambda chunk: (chunk * m).sum((-2, -1))[None]


def mean_direction(q_fn: QFunction, chunks: Tensor, *, grad_clip: float) -> Tensor:
    """The one direction that says most of what the critic says: its mean gradient over states, as long as its clipped
    gradients are on average, so that the control moves as far as the critic does.

    chunks (..., b, C, d) at the `b` states of `q_fn` -> (C, d).
    """
    _, grad = value_and_gradient(q_fn, chunks)
    clipped = clip_norm(grad, grad_clip).flatten(0, -3)  # (n, C, d)
    mean = clipped.mean(0)
    length = torch.linalg.vector_norm(clipped, dim=(-2, -1)).mean()
    return mean * (length / torch.linalg.vector_norm(mean).clamp(min=1e-12))
