"""Implicit Q-learning on chunks (methods 2.3): the value of the better part of what the data did.

L_V = |kappa - 1[Qbar - V < 0]| (Qbar - V)^2           Qbar = mean - rho std of the target heads at (s, A)
L_Q = mean_m (R + gamma^n (1 - terminated) V(s') - Q_m(s, A))^2
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from .ensemble import CriticEnsemble, ValueNet
from .objective import ChunkBatch, td_loss, td_metrics, td_target, weighted_mean
from .qfunction import pool


@dataclass(frozen=True)
class IQLCfg:
    expectile: float = 0.8  # kappa: 0.5 is the mean of the data's actions, 1 their maximum
    pessimism: float = 0.5  # rho of Qbar; with two heads 1 is their minimum and 0 their mean


class IQL(nn.Module):
    def __init__(self, cfg: IQLCfg, value: ValueNet) -> None:
        super().__init__()
        self.cfg = cfg
        self.value = value

    def loss(
        self, critic: CriticEnsemble, target: CriticEnsemble, batch: ChunkBatch, rng: Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        del rng  # nothing is drawn
        with torch.no_grad():
            q_bar = pool(target.q(batch.z, batch.proprio, batch.chunk, batch.centre), self.cfg.pessimism)  # (b,)
            y = td_target(batch, self.value(batch.next_z, batch.next_proprio))  # (b,)
        v = self.value(batch.z, batch.proprio)  # (b,)
        value_loss = weighted_mean(expectile_loss(q_bar - v, self.cfg.expectile), batch.weight)
        q = critic.q(batch.z, batch.proprio, batch.chunk, batch.centre)  # (heads, b)
        loss = value_loss + td_loss(q, y, batch.weight)
        return loss, {
            "critic/loss": loss.detach(),
            "critic/value_loss": value_loss.detach(),
            "critic/v_mean": weighted_mean(v.detach(), batch.weight),
            **td_metrics(q, y, batch),
        }


def expectile_loss(u: Tensor, expectile: float) -> Tensor:
    """|kappa - 1[u < 0]| u^2, u = target - estimate."""
    return torch.where(u < 0, 1 - expectile, expectile) * u.square()
