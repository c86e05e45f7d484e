"""Gates a critic must pass before it may change a policy (methods 2.6).

Critics that look fine and help nobody have been seen to ignore the action (trained on uniform outcomes, Q varied by
0.001 over actions), to push every state in one direction (91 to 94 % of the displacement; half of the success lost),
and to rate highest what they know least. Each gate measures one such failure on held-out chunks.
"""

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest, rankdata
from torch import Generator, Tensor

from ...robot.errors import ConfigError
from .ascent import Ascent, AscentCfg, ascend
from .ensemble import CriticEnsemble
from .gate_report import Gate, GateReport
from .objective import ChunkBatch
from .qfunction import QFunction, scaled, value_and_gradient
from .space import CriticSpace


@dataclass(frozen=True)
class GateCfg:
    """Thresholds. They reject critics known to be useless; passing them proves no more than that."""

    ascent: AscentCfg = AscentCfg()  # the displacement that will be applied to the policy
    min_action_sensitivity: float = 0.05  # within / between states; a critic that ignored the action had about 0.004
    max_global_direction: float = 0.85  # critics that did no better than a constant bias had 0.91 to 0.94
    max_error_ratio: float = 0.9  # |Q - G| over that of the mean return; 1 knows nothing of the state
    min_rank_correlation: float = 0.4  # Spearman of Q and G; below, the ranking is mostly noise (a good one: 0.8)
    max_gradient_error: float = 1e-3  # relative, in fp64; more is a gradient that does not belong to Q
    min_ordered: float = 0.95  # states with Q(A + step) > Q(A) > Q(A - step); fewer: the step outruns the gradient
    min_own_action: float = 0.6  # states that prefer their own chunk to another state's; 0.5 is chance
    max_head_disagreement: float = 1.0  # of actions, heads / mean; sqrt(n_heads) if heads share nothing but noise
    min_confirmed_gain: float = 0.5  # share of best-of-N's gain to which heads that did not choose agree
    max_p_value: float = 0.1  # sign test against the base in the environment; weak, because rollouts are few


def critic_gates(
    critic: CriticEnsemble,
    batch: ChunkBatch,
    space: CriticSpace,
    cfg: GateCfg,
    rng: Generator,
    *,
    q_std: float = 1.0,
) -> GateReport:
    """Every gate on actions that needs no environment, on held-out chunks: rows in random order, each with at least two
    base-policy proposals. A critic of distances is not asked whether it prefers a state's own chunk (`own_action`).

    q_std: the unit of Q in which the policy update will climb (`scaled`), since `cfg.ascent` clips gradients in it.
    """
    if critic.cfg.n_heads < 2 or batch.proposals.shape[1] < 2:
        raise ConfigError(
            f"critic gates: need at least 2 heads and 2 proposals per state, got {critic.cfg.n_heads} and "
            f"{batch.proposals.shape[1]}"
        )
    proposals = batch.proposals.transpose(0, 1)  # (N, b, C, d)
    with torch.no_grad():
        q_fn = critic.at(batch.z, batch.proprio, batch.centre)
        q_proposals = q_fn(proposals)  # (heads, N, b)
        climbed = scaled(critic.judge(batch.z, batch.proprio, batch.centre), q_std)
    exact = copy.deepcopy(critic).double()
    gates = [
        action_sensitivity(q_proposals, cfg),
        global_direction(ascend(climbed, proposals, space, cfg.ascent), proposals, cfg),
        gradient_error(
            exact.at(batch.z.double(), batch.proprio.double(), batch.centre.double()), batch.chunk.double(), cfg, rng
        ),
        gradient_ordering(scaled(q_fn, q_std), batch.chunk, space, cfg),
        head_disagreement(q_proposals, cfg),
        confirmed_gain(q_proposals, cfg),
    ]
    if not critic.cfg.relative:  # another state's chunk is farther from the base's than anything it has seen
        gates.append(own_action(q_fn, batch.chunk, cfg))
    return GateReport(tuple(gates))


def return_gates(q: Tensor, mc_return: Tensor, cfg: GateCfg) -> GateReport:
    """The gates on states: what the critic foretold of episodes it had not seen, q (b,), and what came, mc_return (b,)."""
    return GateReport((return_error(q, mc_return, cfg), return_ranking(q, mc_return, cfg)))


def action_sensitivity(q: Tensor, cfg: GateCfg) -> Gate:
    """q (heads, N, b) at base proposals: spread over a state's actions against spread over states."""
    mean = q.mean(0)  # (N, b)
    within, between = mean.std(0, correction=0).mean(), mean.mean(0).std(correction=0)
    return Gate(
        "action sensitivity",
        float(within / between),
        ">=",
        cfg.min_action_sensitivity,
        "spread of Q over actions within a state / over states",
        {"within": float(within), "between": float(between)},
    )


def global_direction(ascent: Ascent, start: Tensor, cfg: GateCfg) -> Gate:
    """Largest share of the squared displacement of (..., b, C, d) that one fixed direction explains, mean included."""
    d = (ascent.chunk - start).flatten(-2).flatten(0, -2).double()  # (n, C d)
    power = torch.linalg.eigvalsh(d.T @ d)  # ascending
    return Gate(
        "global direction",
        float(power[-1] / power.sum()),
        "<=",
        cfg.max_global_direction,
        "share of the displacement that is the same in every state",
        {
            "displacement": float(torch.linalg.vector_norm(d, dim=-1).mean()),
            "q_gain": float((ascent.q_best - ascent.q_start).mean()),
            "improved": float((ascent.best_step > 0).double().mean()),
        },
    )


def return_error(q: Tensor, mc_return: Tensor, cfg: GateCfg) -> Gate:
    """q (b,) at the data, mc_return (b,)."""
    error = (q - mc_return).abs().mean()
    constant = (mc_return.mean() - mc_return).abs().mean()
    return Gate(
        "return error",
        float(error / constant),
        "<=",
        cfg.max_error_ratio,
        "mean |Q - G| / that of always predicting the mean return",
        {"critic": float(error), "constant": float(constant), "bias": float((q - mc_return).mean())},
    )


def return_ranking(q: Tensor, mc_return: Tensor, cfg: GateCfg) -> Gate:
    """q (b,) at the data, mc_return (b,)."""
    x, y = q.double().cpu().numpy(), mc_return.double().cpu().numpy()
    return Gate(
        "return ranking",
        _correlation(rankdata(x), rankdata(y)),
        ">=",
        cfg.min_rank_correlation,
        "Spearman correlation of Q and return",
        {"pearson": _correlation(x, y)},
    )


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Pearson's; NaN where one of them is constant."""
    return math.nan if x.std() == 0 or y.std() == 0 else float(np.corrcoef(x, y)[0, 1])


def gradient_error(q_fn: QFunction, chunk: Tensor, cfg: GateCfg, rng: Generator, *, eps: float = 1e-4) -> Gate:
    """Autograd against central differences along one random direction per state. All in fp64."""
    u = torch.randn(chunk.shape, generator=rng, device=rng.device).to(chunk)
    _, grad = value_and_gradient(q_fn, chunk)
    with torch.no_grad():
        numeric = (q_fn(chunk + eps * u) - q_fn(chunk - eps * u)).mean(0) / (2 * eps)  # (b,)
    analytic = (grad * u).sum((-2, -1))  # (b,)
    norm = torch.linalg.vector_norm
    return Gate(
        "gradient error",
        float(norm(numeric - analytic) / norm(analytic)),
        "<=",
        cfg.max_gradient_error,
        "relative error of grad_A Q against finite differences",
        {"gradient_norm": float(norm(grad, dim=(-2, -1)).mean())},
    )


def gradient_ordering(q_fn: QFunction, chunk: Tensor, space: CriticSpace, cfg: GateCfg) -> Gate:
    """The first step of the ascent, forward and backward, against staying."""
    q, grad = value_and_gradient(q_fn, chunk)
    move = cfg.ascent.step_size * space.uphill(grad, cfg.ascent.grad_clip)
    with torch.no_grad():
        up, down = q_fn(torch.stack([chunk + move, chunk - move])).mean(0)  # (b,) each
    return Gate(
        "gradient ordering",
        float(((up > q) & (q > down)).double().mean()),
        ">=",
        cfg.min_ordered,
        "states where one step up helps and one step down harms",
        {"up": float((up - q).mean()), "down": float((down - q).mean())},
    )


@torch.no_grad()
def own_action(q_fn: QFunction, chunk: Tensor, cfg: GateCfg) -> Gate:
    """Each state's executed chunk (b, C, d) against the one of the next row."""
    own, other = q_fn(torch.stack([chunk, chunk.roll(1, 0)])).mean(0)  # (b,) each
    return Gate(
        "own action",
        float(((own > other).double() + 0.5 * (own == other).double()).mean()),
        ">=",
        cfg.min_own_action,
        "states that prefer their own chunk to another state's",
        {"margin": float((own - other).mean())},
    )


def head_disagreement(q: Tensor, cfg: GateCfg) -> Gate:
    """q (heads, N, b) at base proposals: do the heads agree on which action of a state is better?"""
    advantage = q - q.mean(1, keepdim=True)  # (heads, N, b)
    heads, actions = advantage.std(0, correction=0).mean(), advantage.mean(0).std(0, correction=0).mean()
    return Gate(
        "head disagreement",
        float(heads / actions),
        "<=",
        cfg.max_head_disagreement,
        "spread of a state's advantages over heads / over actions",
        {"heads": float(heads), "actions": float(actions)},
    )


def confirmed_gain(q: Tensor, cfg: GateCfg) -> Gate:
    """Best-of-N over N: what the choosing half of the heads expects to gain over the mean action, and what the other
    half sees. Falling apart with N is over-optimisation. q (heads, N, b)."""
    half = q.shape[0] // 2
    a, b = q[:half].mean(0), q[half:].mean(0)  # (N, b) each
    numbers: dict[str, float] = {}
    chosen = judged = math.nan
    n = 2
    while n <= q.shape[1]:
        chosen = (_gain(a, a, n) + _gain(b, b, n)) / 2
        judged = (_gain(a, b, n) + _gain(b, a, n)) / 2
        numbers |= {f"chosen_{n}": chosen, f"judged_{n}": judged}
        n *= 2
    return Gate(
        "confirmed gain",
        judged / chosen if chosen > 0 else math.nan,
        ">=",
        cfg.min_confirmed_gain,
        "share of best-of-N's gain in Q to which the heads that did not choose agree",
        numbers,
    )


def _gain(chooser: Tensor, judge: Tensor, n: int) -> float:
    """Q_best - Q_mean of the judge (N, b) when the chooser picks among the first n."""
    picked = judge.gather(0, chooser[:n].argmax(0)[None])[0]  # (b,)
    return float((picked - judge.mean(0)).mean())


def beats_base(wins: int, losses: int, pairs: int, cfg: GateCfg) -> Gate:
    """Exact one-sided sign test on pairs of episodes from the same seed, one by the base and one steered by the critic
    (best-of-N or guidance). A win is a pair in which the steered one alone succeeded."""
    return Gate(
        "beats base",
        float(binomtest(wins, wins + losses, alternative="greater").pvalue) if wins + losses else 1.0,
        "<=",
        cfg.max_p_value,
        "p that selection or guidance with this critic is no better than the base",
        {"wins": float(wins), "losses": float(losses), "episodes": float(pairs)},
    )
