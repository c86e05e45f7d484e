"""SARSA on chunks (methods 2.2): the value of what the data did next. No policy in the loop, no max.

TD = R + gamma^n (1 - terminated) (mean_m Qbar_m(s', a') - rho std_m Qbar_m(s', a')),  a' from the dataset
y  = (1 - w) TD + w G,  G the return of the episode from here on

Bootstrapping passes a value on one chunk at a time, through states that look alike although one of them follows a good
action and one a bad one; with few episodes the return itself says more about the action (w = 1, Monte Carlo).
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from .ensemble import CriticEnsemble
from .objective import ChunkBatch, td_loss, td_metrics, td_target
from .qfunction import pool


@dataclass(frozen=True)
class SarsaCfg:
    pessimism: float = 0.5  # rho: standard deviations over heads subtracted in the target
    monte_carlo: float = 0.0  # w: weight of the observed return in the target, 0 .. 1


class Sarsa(nn.Module):
    def __init__(self, cfg: SarsaCfg) -> None:
        super().__init__()
        self.cfg = cfg

    def loss(
        self, critic: CriticEnsemble, target: CriticEnsemble, batch: ChunkBatch, rng: Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        del rng  # nothing is drawn
        with torch.no_grad():
            next_q = target.q(batch.next_z, batch.next_proprio, batch.next_chunk, batch.next_centre)  # (heads, b)
            td = td_target(batch, pool(next_q, self.cfg.pessimism))  # (b,)
            y = torch.lerp(td, batch.mc_return, self.cfg.monte_carlo)
        q = critic.q(batch.z, batch.proprio, batch.chunk, batch.centre)  # (heads, b)
        loss = td_loss(q, y, batch.weight)
        return loss, {"critic/loss": loss.detach(), **td_metrics(q, y, batch)}
