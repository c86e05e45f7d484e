"""Critics that must not help: the controls beside every Q-VGM result (methods 2.6, 5.5 d, 5.6).

An improvement that `no_op` shows too is an accident of training; one that `constant_direction` shows too is a constant
bias on the actions, not something the critic knows about the state.
"""

import torch
from torch import Tensor

from ..critics.qfunction import QFunction, value_and_gradient
from ..critics.space import CriticSpace


def no_op() -> QFunction:
    """Q = 0: every target is the base's own look-forward."""
    return lambda chunk: 0.0 * chunk.sum((-2, -1))[None]


def constant_direction(m: Tensor) -> QFunction:
    """q = <m, A> in every state. m: (C, d)."""
    return lambda chunk: (chunk * m).sum((-2, -1))[None]


def mean_direction(q_fn: QFunction, chunks: Tensor, space: CriticSpace, *, grad_clip: float) -> Tensor:
    """The one direction that says most of what the critic says: the gradient whose move is the critic's mean move over
    states, as long as its moves are on average, so that the control goes as far as the critic does.

    chunks (..., b, C, d) at the `b` states of `q_fn` -> (C, d).
    """
    _, grad = value_and_gradient(q_fn, chunks)
    moves = space.uphill(grad, grad_clip).flatten(0, -3)  # (n, C, d)
    mean = moves.mean(0)
    length = torch.linalg.vector_norm(moves, dim=(-2, -1)).mean()
    return space.gradient_of(mean * (length / torch.linalg.vector_norm(mean).clamp(min=1e-12)))
