"""Slowly moving copies of a network."""

import copy

import torch
from torch import nn


def frozen_copy[M: nn.Module](module: M) -> M:
    """A copy that no optimiser and no backward pass touches."""
    return copy.deepcopy(module).requires_grad_(False).eval()


@torch.no_grad()
def ema_update(target: nn.Module, online: nn.Module, ema_rate: float) -> None:
    """target <- (1 - ema_rate) target + ema_rate online."""
    for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
        slow.lerp_(fast, ema_rate)
