"""The other time convention (methods 1.1), used by QAM, TRQAM, QPILOTS and QGF: tau = 0 is noise, tau = 1 is clean.

    x = (1 - tau) eps + tau A        u = A - eps        u(x, tau) = -v(x, 1 - tau)

Flip time AND sign: flipping one of them makes guidance descend Q while the loss still goes down. Gradients of Q
and adjoints are the same vectors in both conventions.
"""

from collections.abc import Callable

from torch import Tensor

from .policy import Context, VelocityField

OrigVelocity = Callable[[Tensor, Tensor], Tensor]
"""(x (b, h, d), tau (b,)) -> u (b, h, d)."""


def to_orig(field: VelocityField, ctx: Context) -> OrigVelocity:
    """Our field under one context as u(x, tau)."""
    return lambda x, tau: -field.velocity(ctx, x, 1 - tau)


def from_orig(u: OrigVelocity) -> Callable[[Tensor, Tensor], Tensor]:
    """u(x, tau) as v(x, t)."""
    return lambda x, t: -u(x, 1 - t)
