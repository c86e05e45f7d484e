"""Pretraining of pi05-mini on scripted multi-task data: flow matching, and saying where the named things are.

The second loss is this model's share of what pi0.5 learns from web data and object localisation: features in the frozen
prefix that tell where things are.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..robot.errors import DataError
from .flow import flow_matching_loss, interpolate, sample_time
from .loop import Metrics, TrainCfg
from .pi05_mini.configuration_pi05_mini import PI05MiniConfig
from .pi05_mini.modeling_pi05_mini import PI05MiniPolicy
from .pi05_mini.tokenizer import UNKNOWN, WordTokenizer, build_vocabulary

GROUNDING_SCALE_M = 0.1  # positions are regressed in units of 10 cm


@dataclass(frozen=True)
class PretrainCfg:
    """Recipe of the shipped weights."""

    train: TrainCfg = field(
        default_factory=lambda: TrainCfg(
            steps=6000, lr=1e-3, warmup_steps=300, final_lr=0.02, ema_rate=0.002, bf16=True, eval_every=1000
        )
    )
    batch_size: int = 64
    """Observations per step."""
    noises: int = 4
    """Noisy chunks per observation: the expert is cheap, the prefix is not."""
    grounding_weight: float = 0.5
    """Weight of the loss that asks where things are, beside the flow-matching loss."""
    word_drop: float = 0.1
    """Chance that a word is read as unknown, so that new words do not stop the policy."""
    held_out_shards: int = 1
    """Files whose loss is only watched."""


class PretrainData:
    """Shards of `teleop.multitask`, in memory: random reads of a map of this size wait for the disk again and again."""

    def __init__(self, shards: list[Path]) -> None:
        if not shards:
            raise DataError("no pretraining shards; `armflow pretrain` makes them first")
        names = ("images", "state", "chunk", "valid", "grounding", "episode")
        self._parts = [{n: np.load(s / f"{n}.npy") for n in names} for s in shards]
        self._texts = [json.loads((s / "instructions.json").read_text()) for s in shards]
        self._starts = np.cumsum([0, *(len(p["state"]) for p in self._parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def instructions(self) -> list[str]:
        return [text for texts in self._texts for text in texts]

    def rows(self, index: np.ndarray) -> tuple[dict[str, Tensor], list[str]]:
        """Rows by global index: columns stacked, and the instruction of each."""
        shard = np.searchsorted(self._starts, index, side="right") - 1
        local = index - self._starts[shard]
        columns = {
            name: torch.from_numpy(np.stack([self._parts[s][name][i] for s, i in zip(shard, local, strict=True)]))
            for name in ("images", "state", "chunk", "valid", "grounding")
        }
        texts = [self._texts[s][self._parts[s]["episode"][i]] for s, i in zip(shard, local, strict=True)]
        return columns, texts

    def statistics(self) -> dict[str, Tensor]:
        """Exact pooled quantiles of states and of relative actions over valid steps."""
        state = np.concatenate([p["state"] for p in self._parts])
        relative = []
        for part in self._parts:
            reference = np.append(part["state"][:, :-1], np.zeros((len(part["state"]), 1), np.float32), axis=1)
            relative.append((part["chunk"] - reference[:, None])[part["valid"]])
        action = np.concatenate(relative)
        quantile = {
            f"{n}.q{q:02d}": np.quantile(x, q / 100, axis=0)
            for n, x in (("state", state), ("action", action))
            for q in (1, 99)
        }
        return {k: torch.from_numpy(v.astype(np.float32)) for k, v in quantile.items()}


def new_policy(data: PretrainData, camera_names: tuple[str, ...], seed: int) -> PI05MiniPolicy:
    """Untrained policy whose vocabulary and statistics come from the data."""
    torch.manual_seed(seed)
    policy = PI05MiniPolicy(
        PI05MiniConfig(device="cpu", vocabulary=build_vocabulary(data.instructions), cameras=camera_names)
    )
    q = data.statistics()
    policy.state_norm.set(q["state.q01"], q["state.q99"])
    policy.action_norm.set(q["action.q01"], q["action.q99"])
    return policy


def with_fresh_expert(policy: PI05MiniPolicy, seed: int) -> PI05MiniPolicy:
    """A copy that keeps the vision-language part and has a new action expert, as pi0.5 has after its pre-training."""
    copy = PI05MiniPolicy(policy.config)
    copy.load_state_dict(policy.state_dict())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        copy.expert.load_state_dict(PI05MiniPolicy(policy.config).expert.state_dict())
    return copy


class PretrainStage:
    """Stage of the training loop."""

    name = "pretrain"

    def __init__(self, policy: PI05MiniPolicy, train: PretrainData, held_out: PretrainData, cfg: PretrainCfg) -> None:
        self.policy, self.cfg = policy, cfg
        self.module: nn.Module = policy
        self._train, self._held_out = train, held_out
        self._tokenizer = WordTokenizer(policy.config.vocabulary, policy.config.max_words)

    def loss(self, rng: Generator) -> tuple[Tensor, Metrics]:
        self.policy.train()
        index = torch.randint(len(self._train), (self.cfg.batch_size,), generator=rng).numpy()
        columns, texts = self._train.rows(np.sort(index))
        images = _colour_jitter(columns["images"], rng)
        return self._losses(columns, texts, images, rng, self.cfg.word_drop)

    def _losses(
        self, columns: dict[str, Tensor], texts: list[str], images: Tensor, rng: Generator, word_drop: float
    ) -> tuple[Tensor, Metrics]:
        policy, noises = self.policy, self.cfg.noises
        state = columns["state"]
        words, word_mask = self._tokenizer(texts)
        words = torch.where((torch.rand(words.shape, generator=rng) < word_drop) & word_mask, UNKNOWN, words)
        keys, values, tokens, mask = policy.prefix(images, words, word_mask, policy.state_norm.normalise(state))
        where = policy.prefix.grounding(tokens[:, -1]).float()
        error = where - columns["grounding"] / GROUNDING_SCALE_M
        grounding = F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.1)

        actions = policy.to_flow(columns["chunk"], state).repeat_interleave(noises, 0)
        valid = columns["valid"].repeat_interleave(noises, 0)
        noise = torch.randn(actions.shape, generator=rng)
        t = sample_time(len(actions), rng)
        k, v, m = (x.repeat_interleave(noises, 0) for x in (keys, values, mask))
        flow = flow_matching_loss(policy.expert(k, v, m, interpolate(actions, noise, t), t), actions, noise, valid)
        loss = flow + self.cfg.grounding_weight * grounding
        distance_cm = error.detach().view(-1, 3, 3).norm(dim=-1).mean(0) * GROUNDING_SCALE_M * 100
        metrics = {"flow": flow.item(), "object_cm": distance_cm[0].item(), "target_cm": distance_cm[1].item()}
        return loss, metrics

    def after_step(self) -> None:
        pass

    @torch.no_grad()
    def evaluate(self) -> Metrics:
        """Losses and localisation errors on held-out shards, without augmentation."""
        self.policy.eval()
        rng = Generator().manual_seed(0)
        totals: dict[str, list[float]] = {}
        for start in range(0, min(len(self._held_out), 1024), 128):
            columns, texts = self._held_out.rows(np.arange(start, min(start + 128, len(self._held_out))))
            _, metrics = self._losses(columns, texts, columns["images"].permute(0, 1, 4, 2, 3) / 127.5 - 1, rng, 0.0)
            for key, value in metrics.items():
                totals.setdefault(f"held_out/{key}", []).append(value)
        return {key: float(np.mean(values)) for key, values in totals.items()}


def _colour_jitter(images: Tensor, rng: Generator) -> Tensor:
    """(b, cams, h, w, 3) uint8 -> (b, cams, 3, h, w) in about [-1, 1], with random gain and offset per channel."""
    b, cameras = images.shape[:2]
    gain = 1 + 0.12 * torch.randn(b, cameras, 3, 1, 1, generator=rng)
    offset = 0.08 * torch.randn(b, cameras, 3, 1, 1, generator=rng)
    return (images.permute(0, 1, 4, 2, 3) / 127.5 - 1) * gain + offset
