"""Supervised fine-tuning of the action expert on demonstrations; the vision-language prefix stays as it is."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from ...datasets.episodes import EpisodeArrays, dataset_hash, open_dataset
from ...datasets.schema import IMAGES, Schema
from ...robot.errors import DataError
from ...robot.types import ControlMode
from .. import run
from ..curves import plot
from ..flow import flow_matching_loss, interpolate, sample_time
from ..loop import Metrics, TrainCfg, train
from ..pi05_mini.load import SHIPPED, load_policy
from ..pi05_mini.modeling_pi05_mini import PI05MiniPolicy
from ..prefix_cache import PrefixCache, build

SFT_TRAIN = TrainCfg(steps=800, lr=1e-3, ema_rate=0.02, eval_every=200)


@dataclass(frozen=True)
class SFTCfg:
    """Few-shot SFT."""

    data: Path
    """LeRobot dataset of demonstrations."""
    out: Path
    """Folder of this run."""
    base: Path = SHIPPED
    """Checkpoint to start from."""
    cache: Path = Path("runs/cache")
    """Where prefix outputs are kept."""
    batch_size: int = 48
    """Observations per step."""
    noises: int = 4
    """Noisy chunks per observation."""
    held_out: float = 0.1
    """Share of episodes whose loss is only watched."""
    train: TrainCfg = SFT_TRAIN


def run_sft(cfg: SFTCfg) -> Metrics:
    """Train, save `out/checkpoint`, and return the held-out loss."""
    policy = load_policy(cfg.base)
    inputs = {"data": dataset_hash(cfg.data), "base": weights_hash(cfg.base)}
    if run.begin(cfg.out, "sft", cfg, inputs):
        return run.read_manifest(cfg.out)["metrics"]
    cache = build(policy, cfg.data, cfg.cache)
    stage = SFTStage(policy, cache, cfg)
    metrics = train(stage, cfg.train, cfg.out)
    schema = open_dataset(cfg.data).schema
    policy.config.arm = schema.robot
    policy.config.input_features = image_features(policy.config.cameras, schema)
    policy.save_pretrained(cfg.out / "checkpoint")
    plot(cfg.out, title="SFT")
    run.finish(cfg.out, metrics)
    return metrics


def image_features(cameras: tuple[str, ...], schema: Schema) -> dict[str, PolicyFeature]:
    """LeRobot's description of the images that the policy was trained on, (3, h, w) each."""
    sizes = {f"{IMAGES}{name}": schema.columns[f"{IMAGES}{name}"].shape[:2] for name in cameras}
    return {key: PolicyFeature(FeatureType.VISUAL, (3, *size)) for key, size in sizes.items()}


def weights_hash(checkpoint: Path) -> str:
    folder = checkpoint / "checkpoint" if (checkpoint / "checkpoint").is_dir() else checkpoint
    return run.file_hash(folder / "model.safetensors")


class SFTStage:
    """Stage: flow matching of the expert on cached prefixes."""

    name = "sft"

    def __init__(self, policy: PI05MiniPolicy, cache: PrefixCache, cfg: SFTCfg) -> None:
        self.policy, self._cache, self._cfg = policy, cache, cfg
        policy.requires_grad_(False)
        policy.expert.requires_grad_(True)
        policy.eval()  # the prefix is frozen, statistics of its norms included; the expert has no dropout
        self.module: nn.Module = policy.expert
        self._chunks, self._valid = action_chunks(cache, policy.chunk_size)
        train_episodes, held_out = split_episodes(cache.episodes, cfg.held_out)
        acted = self._valid[:, 0].numpy()
        self._train_rows = np.flatnonzero(acted & np.isin(cache.episode, train_episodes))
        self._held_out_rows = np.flatnonzero(acted & np.isin(cache.episode, held_out))
        check_range(policy, self._chunks, self._valid, torch.from_numpy(np.array(cache.state)))

    def loss(self, rng: Generator) -> tuple[Tensor, Metrics]:
        picked = torch.randint(len(self._train_rows), (self._cfg.batch_size,), generator=rng)
        return self._loss(np.sort(self._train_rows[picked.numpy()]), rng), {}

    def _loss(self, rows: NDArray[np.int64], rng: Generator) -> Tensor:
        n = self._cfg.noises
        ctx = self._cache.context(rows)
        actions = self.policy.to_flow(self._chunks[rows], ctx.state).repeat_interleave(n, 0)
        valid, ctx = self._valid[rows].repeat_interleave(n, 0), ctx.repeat_interleave(n)
        noise, t = torch.randn(actions.shape, generator=rng), sample_time(len(actions), rng)
        v = self.policy.velocity(ctx, interpolate(actions, noise, t), t)
        return flow_matching_loss(v, actions, noise, valid)

    def after_step(self) -> None:
        pass

    @torch.no_grad()
    def evaluate(self) -> Metrics:
        """Flow-matching loss on held-out episodes, always with the same noise."""
        rng = Generator().manual_seed(0)
        rows = self._held_out_rows
        losses = [float(self._loss(part, rng)) for part in np.array_split(rows, max(1, len(rows) // 128))]
        return {"held_out/flow": float(np.mean(losses))}


def action_chunks(cache: PrefixCache, horizon: int) -> tuple[Tensor, Tensor]:
    """Executed actions from every row's frame on, (rows, horizon, 8), and which of them exist, (rows, horizon): up to the
    episode's end, or to a pause, which nobody shall learn."""
    by_index = {e.ref.index: e for e in cache.episodes}
    chunks, valid = [], []
    for episode, frame in zip(cache.episode.tolist(), cache.frame.tolist(), strict=True):
        action, mode = by_index[episode].action, by_index[episode].control_mode
        index = np.arange(frame, frame + horizon)
        there = np.minimum(index, len(action) - 1)
        chunks.append(action[there])
        valid.append((index < len(action)) & np.logical_and.accumulate(mode[there] != ControlMode.PAUSE))
    stacked = np.stack(chunks)
    if not np.isfinite(stacked).all():
        bad = sorted({int(e) for e, c in zip(cache.episode, stacked, strict=True) if not np.isfinite(c).all()})
        raise DataError(f"actions of episodes {bad} hold NaN or infinity; discard these episodes before training")
    return torch.from_numpy(stacked), torch.from_numpy(np.stack(valid))


def split_episodes(episodes: list[EpisodeArrays], held_out: float) -> tuple[list[int], list[int]]:
    """Indices of episodes to train on and to hold out: every n-th, so that both see all tasks."""
    every = max(2, round(1 / held_out)) if held_out > 0 else len(episodes) + 1
    out = [e.ref.index for i, e in enumerate(episodes) if i % every == every - 1]
    return [e.ref.index for e in episodes if e.ref.index not in out], out or [episodes[-1].ref.index]


def check_range(policy: PI05MiniPolicy, chunks: Tensor, valid: Tensor, state: Tensor) -> None:
    """Raises DataError if the data lies far outside the range that the policy's statistics cover."""
    flow = policy.to_flow(chunks, state)[valid]  # (n, 8)
    outside = (flow.abs() > 2.0).float().mean(0)  # twice the 1 % .. 99 % range
    if bool((outside > 0.2).any()):
        worst = int(outside.argmax())
        raise DataError(
            f"{policy.config.action_names[worst]}: {outside[worst]:.0%} of the actions lie beyond twice the range in the "
            "policy's statistics. Are the units radians and the gripper 0..1? Otherwise pretrain for this motion range"
        )
