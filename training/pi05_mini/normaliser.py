"""Quantile normalisation as in pi0.5: 2 (x - q01) / (q99 - q01) - 1, with the statistics inside the checkpoint."""

import torch
from torch import Tensor, nn

from ...robot.errors import MissingStats

RANGE_FLOOR = 1e-3  # rad or opening: a joint that never moved must not blow noise up to the size of a motion


class QuantileNormaliser(nn.Module):
    """Buffers `q01`, `q99` (d,); NaN until statistics are set, which is an error to use, not a pass-through."""

    q01: Tensor
    q99: Tensor

    def __init__(self, name: str, dim: int) -> None:
        super().__init__()
        self._name = name
        self.register_buffer("q01", torch.full((dim,), torch.nan))
        self.register_buffer("q99", torch.full((dim,), torch.nan))

    def set(self, q01: Tensor, q99: Tensor) -> None:
        """Raises MissingStats if a statistic is not finite."""
        self.q01.copy_(q01)
        self.q99.copy_(q99)
        self.check()

    def check(self) -> None:
        if not (self.q01.isfinite().all() and self.q99.isfinite().all()):
            raise MissingStats(
                f"{self._name}: no normalisation statistics in this policy; "
                "a checkpoint made by `armflow pretrain` or `armflow train sft` carries them"
            )

    def _scale(self) -> Tensor:
        return (self.q99 - self.q01).clamp(min=RANGE_FLOOR) / 2

    def normalise(self, x: Tensor) -> Tensor:
        return (x - self.q01) / self._scale() - 1

    def denormalise(self, x: Tensor) -> Tensor:
        return (x + 1) * self._scale() + self.q01
