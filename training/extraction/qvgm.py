"""Q-VGM: distil the ascent of a critic into the velocity field (arXiv 2606.08015 v1; methods 5, our time convention).

    x^{k+1}   = sg[x^k - v_theta(x^k, t_k) / K]                          roll out the current policy
    A^{k,0}   = x^k - t_k v_base(x^k, t_k)                               look forward under the frozen base
    A^{k,j+1} = Proj[A^{k,j} + alpha clip_G(grad_A Q(s, A^{k,j}))]       climb, keep the best, j = 0 included
    h_eff^k   = (A^{k,0} - A^{k,j*}) / t_k                               the velocity residual that leads there
    L         = 1/K sum_k s(t_k) || (v_theta - v_base)(x^k, t_k) - sg h_eff^k ||^2

The base is evaluated on the policy's own states, so corrections add up along the flow: the chunk that comes out moves
1.2 to 3.3 times as far as any single target did (methods 5.4), and keep-best does not see that one. `max_displacement`
bounds it: targets are pulled into a ball around B^k, the base's look-forward on its own trajectory from the same
noise. At the last step B^k is the base's action itself, so a policy that matches its targets ends inside the ball.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...robot.errors import ConfigError
from ..critics.ascent import Ascent, AscentCfg, ascend
from ..critics.qfunction import QFunction, clip_norm, pool
from ..critics.space import CriticSpace
from ..flow import clean_estimate, times
from ..policy import Context, VelocityField
from .time_gates import LateGate, TimeGate

# The base's own trajectory costs a fifth of a step. Where no cap needs it, one state in four shows how far the action
# has moved.
MEASURED_SHARE = 4


@dataclass(frozen=True)
class QVGMCfg:
    ascent: AscentCfg = AscentCfg()
    gate: TimeGate = LateGate()  # which flow steps learn, and with what weight
    flow_steps: int = 10  # K, as at inference
    max_displacement: float | None = None  # L2 over the executed chunk, normalised units, from the base's action

    def __post_init__(self) -> None:
        if self.max_displacement is not None and self.max_displacement <= 0:
            raise ConfigError(f"Q-VGM: max_displacement must be > 0 or None (no cap), got {self.max_displacement}")


@dataclass(frozen=True, eq=False)
class Rollout:
    """The steps with weight, m of them, stacked; and both final chunks."""

    t: Tensor  # (m,)
    weight: Tensor  # (m,) s(t_k)
    residual: Tensor  # (m, b, h, d) v_theta - v_base at the policy's states, in fp32, with gradient
    clean: Tensor  # (m, b, h, d) A^{k,0}
    base_clean: Tensor  # (m, n, h, d) B^k of the first n states, all of them if there is a cap
    final: Tensor  # (b, h, d) what the policy does
    base_final: Tensor  # (n, h, d) what the base does from the same noise


class QVGM:
    """Q-VGM for a trainable `policy` beside the frozen `base` it started from."""

    def __init__(self, cfg: QVGMCfg, policy: VelocityField, base: VelocityField, space: CriticSpace) -> None:
        if not bool((cfg.gate.weights(cfg.flow_steps) > 0).any()):
            raise ConfigError(f"Q-VGM: {cfg.gate} gives every one of the {cfg.flow_steps} flow steps weight zero")
        self.cfg = cfg
        self.policy = policy
        self.base = base
        self.space = space

    def loss(self, ctx: Context, noise: Tensor, q_fn: QFunction) -> tuple[Tensor, dict[str, Tensor]]:
        """ctx: prefix of b states, shared by policy and base; noise (b, h, d) fp32; q_fn: the critic at these states.

        The square norm is a mean over all entries of the chunk, so that the loss does not scale with the horizon.
        """
        run = self._roll_out(ctx, noise)
        t = run.t[:, None, None, None]
        with torch.autocast(noise.device.type, enabled=False):
            move, ascent = self._improve(run, q_fn)  # (m, b, h, d)
            h_eff = -move / t
            error = (run.residual - h_eff).square().mean((1, 2, 3))  # (m,)
            loss = (run.weight * error).sum() / self.cfg.flow_steps
            return loss, {"qvgm/loss": loss.detach(), **self._metrics(run, h_eff, ascent, q_fn)}

    def _roll_out(self, ctx: Context, noise: Tensor) -> Rollout:
        """Each state is detached, so a step's graph holds that step only: the forward pass that moves the roll-out is
        also the one that learns, and policy and base run on identical inputs, bit for bit."""
        flow_steps = self.cfg.flow_steps
        weights = self.cfg.gate.weights(flow_steps)
        learns = [k for k in range(flow_steps) if weights[k] > 0]
        residual, clean, base_clean = [], [], []
        n = len(noise) if self.cfg.max_displacement is not None else max(1, len(noise) // MEASURED_SHARE)
        x = noise.detach().float()  # the policy's trajectory
        y, ctx_y = x[:n], ctx[:n]  # the base's
        for k, t_k in enumerate(times(flow_steps).to(noise.device)):
            t = t_k.expand(len(x))
            with torch.set_grad_enabled(k in learns and torch.is_grad_enabled()):
                v = self.policy.velocity(ctx, x, t)
            with torch.no_grad():
                w = self.base.velocity(ctx_y, y, t[:n])
            if k in learns:
                with torch.no_grad():
                    v_base = self.base.velocity(ctx, x, t).float()
                residual.append(v.float() - v_base)
                clean.append(clean_estimate(x, v_base, t))
                base_clean.append(clean_estimate(y, w.float(), t[:n]))
            x = x - v.detach() / flow_steps
            y = y - w / flow_steps
        return Rollout(
            t=times(flow_steps)[learns].to(noise.device),
            weight=weights[learns].to(noise.device),
            residual=torch.stack(residual),
            clean=torch.stack(clean),
            base_clean=torch.stack(base_clean),
            final=x,
            base_final=y,
        )

    def _improve(self, run: Rollout, q_fn: QFunction) -> tuple[Tensor, Ascent]:
        """A^{k,j*} - A^{k,0} in flow space (m, b, h, d), zero on steps not executed and on padded dims."""
        start = self.space.view(run.clean)  # (m, b, C, d): all steps climb together
        ascent = ascend(q_fn, start, self.space, self.cfg.ascent)
        goal = ascent.chunk
        if self.cfg.max_displacement is not None:
            origin = self.space.view(run.base_clean)
            goal = origin + clip_norm(goal - origin, self.cfg.max_displacement)
        return self.space.embed(goal - start, like=run.clean), ascent

    @torch.no_grad()
    def _metrics(self, run: Rollout, h_eff: Tensor, ascent: Ascent, q_fn: QFunction) -> dict[str, Tensor]:
        rho = self.cfg.ascent.pessimism
        n = len(run.base_final)
        final = self.space.view(run.final)  # (b, C, d)
        base_final = torch.cat([self.space.view(run.base_final), final[n:]])  # q_fn wants all b states
        q_final, q_base = pool(q_fn(torch.stack([final, base_final])), rho)  # (b,) each
        best_step = ascent.best_step.float()
        return {
            "qvgm/final_displacement": torch.linalg.vector_norm((final - base_final)[:n], dim=(-2, -1)).mean(),
            "qvgm/final_q_gain": (q_final - q_base)[:n].mean(),
            "qvgm/target_q_gain": (ascent.q_best - ascent.q_start).mean(),
            "qvgm/improved": (best_step > 0).float().mean(),
            "qvgm/best_step": best_step.mean(),
            **{f"qvgm/best_step_{j}": (best_step == j).float().mean() for j in range(self.cfg.ascent.ascent_steps + 1)},
            "qvgm/residual_norm": torch.linalg.vector_norm(run.residual, dim=(-2, -1)).mean(),
            "qvgm/target_norm": torch.linalg.vector_norm(h_eff, dim=(-2, -1)).mean(),
        }
