"""Q-VGM: teach the action expert the critic's corrections."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor, nn

from ...datasets.episodes import dataset_hash
from ...robot.errors import CheckpointError
from .. import run
from ..critics.ascent import embedded_ascent
from ..critics.ema import frozen_copy
from ..critics.qfunction import QFunction
from ..curves import plot
from ..extraction.controls import constant_direction, mean_direction, no_op
from ..extraction.qvgm import QVGM, QVGMCfg
from ..flow import sample
from ..loop import Metrics, TrainCfg, train
from ..pi05_mini.load import load_policy
from ..pi05_mini.modeling_pi05_mini import PI05MiniPolicy
from ..prefix_cache import PrefixCache, build, prefix_hash
from ..proposals import base_centres
from .critic import Critic, load_critic, load_gates
from .rlt import encode_cache, load_rlt
from .sft import split_episodes, weights_hash

CONTROL_STATES = 512  # states over which the constant direction is averaged

QVGM_TRAIN = TrainCfg(steps=150, lr=6e-4, warmup_steps=30, weight_decay=0.0, ema_rate=0.02, eval_every=50, final_lr=0.1)


@dataclass(frozen=True)
class QVGMStageCfg:
    """Policy extraction for the embedded policy."""

    data: tuple[Path, ...]
    """LeRobot datasets whose states it learns on."""
    policy: Path
    """The SFT checkpoint to improve; also the frozen base."""
    critic: Path
    """Folder of the trained critic."""
    out: Path
    """Folder of this run."""
    cache: Path = Path("runs/cache")
    """Where prefix outputs are kept."""
    stride: int = 8
    """Every n-th frame: the states in which the policy had to decide."""
    control: Literal["none", "no-op", "constant-direction"] = "none"
    """Train on a critic that must not help, instead of the real one."""
    ignore_gates: bool = False
    """Update the policy although the critic failed its gates."""
    method: QVGMCfg = field(default_factory=lambda: QVGMCfg(ascent=embedded_ascent()))
    batch_size: int = 64
    """States per step."""
    held_out: float = 0.1
    """Share of episodes whose displacement and Q gain are only watched."""
    train: TrainCfg = QVGM_TRAIN


def run_qvgm(cfg: QVGMStageCfg) -> Metrics:
    """Train, save `out/checkpoint`; returns held-out displacement and Q gain of the final actions.

    Raises CheckpointError if the critic failed its gates and `ignore_gates` is not set.
    """
    gates = load_gates(cfg.critic)
    if not (gates.passed or cfg.ignore_gates):
        failed = "\n".join(f"  {gate}" for gate in gates.failures)
        raise CheckpointError(
            f"the critic in {cfg.critic} failed its gates:\n{failed}\n"
            "A policy trained on it may lose what it can do. Collect more rollouts or train another critic; "
            "--ignore-gates overrides"
        )
    policy = load_policy(cfg.policy)
    inputs = {f"data{i}": dataset_hash(p) for i, p in enumerate(cfg.data)}
    inputs |= {"policy": weights_hash(cfg.policy), "critic": run.file_hash(cfg.critic / "critic.safetensors")}
    if run.begin(cfg.out, "qvgm", cfg, inputs):
        return run.read_manifest(cfg.out)["metrics"]
    critic = load_critic(cfg.critic)
    token = load_rlt(critic.rlt, prefix_hash(policy))
    caches = [build(policy, path, cfg.cache, stride=cfg.stride) for path in cfg.data]
    stage = QVGMStage(policy, critic, caches, [encode_cache(token, c) for c in caches], cfg)
    metrics = train(stage, cfg.train, cfg.out)
    policy.save_pretrained(cfg.out / "checkpoint")
    plot(cfg.out, title=f"Q-VGM (control: {cfg.control})")
    run.finish(cfg.out, metrics)
    return metrics


class QVGMStage:
    """Stage: residual velocity matching on the states of the rollouts."""

    name = "qvgm"

    def __init__(
        self, policy: PI05MiniPolicy, critic: Critic, caches: list[PrefixCache], zs: list[Tensor], cfg: QVGMStageCfg
    ) -> None:
        self._policy, self._critic, self._cfg = policy, critic, cfg
        self._caches, self._zs = caches, zs
        self._centres = [base_centres(policy, c) for c in caches] if critic.needs_centre else []
        base = frozen_copy(policy)
        policy.requires_grad_(False)
        policy.expert.requires_grad_(True)
        policy.eval()
        self.module: nn.Module = policy.expert
        self._method = QVGM(cfg.method, policy, base, critic.space)
        held_out = [np.isin(c.episode, split_episodes(c.episodes, cfg.held_out)[1]) for c in caches]
        self._train = [np.flatnonzero(~h) for h in held_out]
        self._held_out = [np.flatnonzero(h) for h in held_out]
        self._sizes = torch.tensor([float(len(rows)) for rows in self._train])
        self._direction = self._constant() if cfg.control == "constant-direction" else None

    def loss(self, rng: Generator) -> tuple[Tensor, Metrics]:
        which = int(torch.multinomial(self._sizes, 1, generator=rng))
        rows = self._train[which]
        picked = torch.randint(len(rows), (self._cfg.batch_size,), generator=rng).numpy()
        loss, metrics = self._loss(which, np.sort(rows[picked]), rng)
        return loss, {k: float(v) for k, v in metrics.items()}

    def _loss(self, which: int, rows: np.ndarray, rng: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        ctx = self._caches[which].context(rows)
        noise = torch.randn(len(rows), self._policy.chunk_size, self._policy.action_dim, generator=rng)
        return self._method.loss(ctx, noise, self._q_fn(which, rows, ctx.state))

    def _q_fn(self, which: int, rows: np.ndarray, state: Tensor) -> QFunction:
        if self._cfg.control == "no-op":
            return no_op()
        if self._direction is not None:
            return constant_direction(self._direction)
        return self._true_q(which, rows, state)

    def _true_q(self, which: int, rows: np.ndarray, state: Tensor) -> QFunction:
        """The critic at these states."""
        proprio = self._policy.state_norm.normalise(state)
        index = torch.from_numpy(rows)
        centre = self._centres[which][index] if self._critic.needs_centre else None
        return self._critic.judge(self._zs[which][index], proprio, centre)

    def _constant(self) -> Tensor:
        """The one direction that says most of what the critic says on the training states."""
        which = int(self._sizes.argmax())
        rows = self._train[which][:: max(1, len(self._train[which]) // CONTROL_STATES)]
        ctx = self._caches[which].context(rows)
        rng = Generator().manual_seed(self._cfg.train.seed)
        noise = torch.randn(len(rows), self._policy.chunk_size, self._policy.action_dim, generator=rng)
        with torch.no_grad():
            x = sample(self._policy, ctx, noise, flow_steps=self._cfg.method.flow_steps)
        chunks = self._critic.space.view(x)
        clip = self._cfg.method.ascent.grad_clip
        return mean_direction(self._true_q(which, rows, ctx.state), chunks, self._critic.space, grad_clip=clip)

    def after_step(self) -> None:
        pass

    @torch.no_grad()
    def evaluate(self) -> Metrics:
        """Displacement and Q gain of the final actions on held-out episodes, always with the same noise."""
        rng = Generator().manual_seed(0)
        totals: dict[str, list[float]] = {}
        for which, rows in enumerate(self._held_out):
            for part in np.array_split(rows, max(1, len(rows) // 128))[:4]:
                _, metrics = self._loss(which, part, rng)
                for key, value in metrics.items():
                    totals.setdefault(f"held_out/{key.removeprefix('qvgm/')}", []).append(float(value))
        return {key: float(np.mean(values)) for key, values in totals.items()}
