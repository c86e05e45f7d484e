"""Calibrated Q-learning on chunks, for a flow policy (methods 2.4; Cal-QL with proposals instead of log-densities).

    cat   = [ Q(s, A_uniform) + w log vol,  max(Q(s, A_base), G),  max(Q(s, A_base + noise), G) ]
    L_CQL = temperature logsumexp(cat / temperature) - Q(s, A_data)
    L     = L_TD + conservative_weight L_CQL

A flow gives no log-density, so policy proposals carry no importance term. Only they are calibrated by the return G:
pushing Q of the policy's own actions below what the data achieved would be pessimism without evidence.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from ...robot.errors import ConfigError
from .ensemble import CriticEnsemble
from .objective import ChunkBatch, td_loss, td_metrics, td_target, weighted_mean
from .qfunction import pool
from .space import CriticSpace


@dataclass(frozen=True)
class CalQLCfg:
    conservative_weight: float = 0.05  # of L_CQL; raise until critic/uniform_margin is about a tenth of Q's range
    temperature: float = 1.0  # of the logsumexp, in units of Q
    n_uniform: int = 4  # proposals drawn uniformly in the box, per state
    n_policy: int = 4  # base-policy proposals, per state, out of those in the batch
    n_noisy: int = 4  # base-policy proposals with Gaussian noise, per state
    noise_std: float = 0.1  # of that noise, in normalised action units
    volume_share: float = (
        0.0  # w: 1 is the importance term of CQL, but in 64 dims it is about +44 and silences the rest
    )
    pessimism: float = 0.5  # rho: standard deviations over heads subtracted in the TD target


class CalQL(nn.Module):
    def __init__(self, cfg: CalQLCfg, space: CriticSpace) -> None:
        super().__init__()
        self.cfg = cfg
        self.space = space

    def loss(
        self, critic: CriticEnsemble, target: CriticEnsemble, batch: ChunkBatch, rng: Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        cfg = self.cfg
        with torch.no_grad():
            next_q = target.q(batch.next_z, batch.next_proprio, batch.next_chunk, batch.next_centre)  # (heads, b)
            y = td_target(batch, pool(next_q, cfg.pessimism))  # (b,)

        uniform, policy = self._proposals(batch, rng)  # (n, b, C, d) each
        chunks = torch.cat([batch.chunk[None], uniform, policy])
        q = critic.q(batch.z, batch.proprio, chunks, batch.centre)  # (heads, 1 + n_uniform + n_policy + n_noisy, b)
        q_data, q_uniform, q_policy = q[:, 0], q[:, 1 : 1 + len(uniform)], q[:, 1 + len(uniform) :]

        gap = conservative_gap(
            q_data,
            q_uniform + cfg.volume_share * self.space.log_volume,
            q_policy,
            batch.mc_return,
            temperature=cfg.temperature,
        )  # (heads, b)
        conservative = weighted_mean(gap, batch.weight)
        loss = td_loss(q_data, y, batch.weight) + cfg.conservative_weight * conservative
        with torch.no_grad():
            metrics = {
                "critic/loss": loss.detach(),
                "critic/conservative_gap": conservative.detach(),
                "critic/uniform_margin": weighted_mean(q_data.mean(0) - q_uniform.mean((0, 1)), batch.weight),
                "critic/policy_margin": weighted_mean(q_data.mean(0) - q_policy.mean((0, 1)), batch.weight),
                "critic/calibrated": weighted_mean((q_policy < batch.mc_return).float().mean((0, 1)), batch.weight),
            }
        return loss, metrics | td_metrics(q_data.detach(), y, batch)

    def _proposals(self, batch: ChunkBatch, rng: Generator) -> tuple[Tensor, Tensor]:
        """Uniform (n_uniform, b, C, d), and base-policy samples without and with noise (n_policy + n_noisy, b, C, d)."""
        cfg = self.cfg
        b, available = batch.proposals.shape[:2]
        if available < max(cfg.n_policy, cfg.n_noisy):
            raise ConfigError(
                f"Cal-QL: needs {max(cfg.n_policy, cfg.n_noisy)} base-policy proposals per state, the batch has "
                f"{available}; lower n_policy and n_noisy or store more proposals"
            )
        order = torch.rand(available, generator=rng, device=rng.device).argsort().to(batch.proposals.device)
        base = batch.proposals.transpose(0, 1)[order]  # (N, b, C, d)
        noisy = base[: cfg.n_noisy]
        noise = torch.randn(noisy.shape, generator=rng, device=rng.device).to(noisy)
        noisy = self.space.clamp(noisy + cfg.noise_std * noise)
        return self.space.uniform(cfg.n_uniform, b, rng=rng), torch.cat([base[: cfg.n_policy], noisy])


def conservative_gap(
    q_data: Tensor, q_uniform: Tensor, q_policy: Tensor, mc_return: Tensor, *, temperature: float
) -> Tensor:
    """L_CQL per head and state. q_data (heads, b), q_uniform and q_policy (heads, n, b), mc_return (b,)."""
    calibrated = torch.maximum(q_policy, mc_return)  # no gradient where Q(policy) < G
    cat = torch.cat([q_uniform, calibrated], dim=1)  # (heads, n, b)
    return temperature * torch.logsumexp(cat / temperature, dim=1) - q_data
