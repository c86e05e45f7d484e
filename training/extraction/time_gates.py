"""Which flow steps Q-VGM trusts, and how much: the weights s(t_k) of its loss (methods 5.1, 5.2, 5.4).

The look-forward from pure noise says little, and h_eff = dA / t grows towards the clean end. Each gate answers
differently; steps of weight zero cost nothing but their forward pass.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..flow import times


@dataclass(frozen=True)
class PowerGate:
    """s(t) = (1 - t)^power on every step: version 1 of the paper."""

    power: float = 1.0  # > 0; the first step, t = 1, then has weight zero

    def weights(self, flow_steps: int) -> Tensor:
        """(K,)"""
        return (1 - times(flow_steps)) ** self.power


@dataclass(frozen=True)
class LateGate:
    """s = 1 on the last steps, 0 before: versions 2 to 5 of the paper."""

    last_steps: int = 5  # M

    def weights(self, flow_steps: int) -> Tensor:
        """(K,)"""
        return _late(flow_steps, self.last_steps)


@dataclass(frozen=True)
class CleanSpaceGate:
    """s(t) = t^2 on the last steps: t^2 ||dv + dA / t||^2 = ||t dv + dA||^2 matches clean chunks, so that no step
    outweighs another. For noisy training."""

    last_steps: int = 5  # M

    def weights(self, flow_steps: int) -> Tensor:
        """(K,)"""
        return _late(flow_steps, self.last_steps) * times(flow_steps) ** 2


TimeGate = PowerGate | LateGate | CleanSpaceGate


def _late(flow_steps: int, last_steps: int) -> Tensor:
    return (torch.arange(flow_steps) >= flow_steps - last_steps).float()
