"""Q-guidance: move the policy's action uphill at inference, after the flow or inside it.

    after   A <- ascent on Q from the policy's chunk, keep-best           the Q-VGM paper's "Q-guidance"
    inside  v <- v - w grad_Ahat Q(s, clip(Ahat)),  Ahat = x - t v        QGF (arXiv 2606.11087; methods 9.1)

QGF replaces the Jacobian dAhat/dx by the identity: no gradient passes through the velocity field.
"""

from dataclasses import dataclass

from torch import Tensor

from ..critics.ascent import AscentCfg, ascend
from ..critics.qfunction import QFunction, value_and_gradient
from ..critics.space import CriticSpace
from ..flow import Guidance, clean_estimate


def climb(x: Tensor, q_fn: QFunction, space: CriticSpace, cfg: AscentCfg) -> Tensor:
    """A sampled chunk (b, h, d) in flow space, its executed part moved to the best point of an ascent."""
    out = x.clone()
    executed = space.view(out)  # shares memory with `out`
    executed.copy_(ascend(q_fn, executed, space, cfg).chunk)
    return out


@dataclass(frozen=True)
class QGFCfg:
    weight: float = 1.0  # w, per unit of Q: normalise Q to unit standard deviation first
    pessimism: float = 0.0  # rho: the gradient of mean - rho std over heads


def qgf(q_fn: QFunction, space: CriticSpace, cfg: QGFCfg) -> Guidance:
    """For `flow.sample(..., guidance=)`. The gradient is zero where the clean estimate has left the box."""

    def guidance(x: Tensor, v: Tensor, t: Tensor) -> Tensor:
        clean = space.view(clean_estimate(x, v, t)).float()
        _, grad = value_and_gradient(lambda chunk: q_fn(space.clamp(chunk)), clean, cfg.pessimism)
        return v - cfg.weight * space.embed(grad, like=x).to(v)

    return guidance
