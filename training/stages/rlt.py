"""Training the RL token on cached prefix tokens, and probing what can be read out of it."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn

from ...datasets.chunks import discounted_return
from ...datasets.episodes import dataset_hash
from ...robot.errors import CheckpointError
from .. import run
from ..curves import plot
from ..loop import Metrics, TrainCfg, train
from ..pi05_mini.load import SHIPPED, load_policy
from ..prefix_cache import PrefixCache, build, prefix_hash
from ..probe import probe_r2
from ..rlt import RLTCfg, RLToken, mean_pool
from .sft import split_episodes

ENCODE_BATCH = 256

RLT_TRAIN = TrainCfg(steps=400, lr=1e-3, bf16=True, eval_every=200)


@dataclass(frozen=True)
class RLTStageCfg:
    """RL-token encoder-decoder for the embedded policy."""

    data: tuple[Path, ...]
    """LeRobot datasets whose frames it learns to compress."""
    out: Path
    """Folder of this run."""
    policy: Path = SHIPPED
    """Any checkpoint with the frozen prefix in question."""
    cache: Path = Path("runs/cache")
    """Where prefix outputs are kept."""
    stride: int = 8
    """Every n-th frame; as the critic's, to share its cache."""
    batch_size: int = 48
    """Frames per step."""
    held_out: float = 0.1
    """Share of episodes for held-out scores and probes."""
    discount: float = 0.98
    """Of the return that the probe predicts."""
    network: RLTCfg = field(default_factory=lambda: RLTCfg(width=192, n_heads=6, max_tokens=128, hidden_teacher=0.5))
    train: TrainCfg = RLT_TRAIN


def run_rlt(cfg: RLTStageCfg) -> Metrics:
    """Train, save, probe; returns held-out scores."""
    policy = load_policy(cfg.policy)
    inputs = {f"data{i}": dataset_hash(p) for i, p in enumerate(cfg.data)} | {"prefix": prefix_hash(policy)}
    if run.begin(cfg.out, "rlt", cfg, inputs):
        return run.read_manifest(cfg.out)["metrics"]
    caches = [build(policy, path, cfg.cache, stride=cfg.stride) for path in cfg.data]
    stage = RLTStage(caches, cfg, token_width=policy.config.network().width)
    metrics = train(stage, cfg.train, cfg.out)
    save_file(stage.token.state_dict(), cfg.out / "rlt.safetensors", {"config": json.dumps(run.to_json(cfg.network))})
    metrics |= stage.probe()
    plot(cfg.out, title="RL token")
    run.finish(cfg.out, metrics)
    return metrics


def load_rlt(out: Path, policy_prefix_hash: str) -> RLToken:
    """The trained encoder. Raises CheckpointError if it was trained on another prefix: its tokens would mean nothing."""
    manifest = run.read_manifest(out)
    if manifest["inputs"]["prefix"] != policy_prefix_hash:
        raise CheckpointError(
            f"{out} was trained on prefix {manifest['inputs']['prefix']}, the policy has {policy_prefix_hash}; "
            "train an RL token for this policy with `armflow train rlt`"
        )
    tensors = load_file(out / "rlt.safetensors")
    config = {k: v for k, v in manifest["config"]["network"].items() if k != "type"}
    token = RLToken(RLTCfg(**config), token_width=tensors["token_in.weight"].shape[1], rng=Generator())
    token.load_state_dict(tensors)
    return token.requires_grad_(False).eval()


@torch.no_grad()
def encode_cache(token: RLToken, cache: PrefixCache) -> Tensor:
    """(rows, width) RL token of every row of a cache."""
    parts = np.array_split(np.arange(len(cache)), max(1, len(cache) // ENCODE_BATCH))
    return torch.cat([token.encode(*cache.tokens(rows)) for rows in parts])


class RLTStage:
    """Stage: reconstruct the prefix tokens from one vector."""

    name = "rlt"

    def __init__(self, caches: list[PrefixCache], cfg: RLTStageCfg, token_width: int) -> None:
        self.token = RLToken(cfg.network, token_width=token_width, rng=Generator().manual_seed(cfg.train.seed))
        self.module: nn.Module = self.token
        self._caches, self._cfg = caches, cfg
        held_out = [np.isin(c.episode, split_episodes(c.episodes, cfg.held_out)[1]) for c in caches]
        self._train = _pairs([~h for h in held_out])
        self._held_out = _pairs(held_out)

    def loss(self, rng: Generator) -> tuple[Tensor, Metrics]:
        picked = torch.randint(len(self._train), (self._cfg.batch_size,), generator=rng).numpy()
        loss, metrics = self.token.reconstruction_loss(*self._tokens(self._train[np.sort(picked)]), rng)
        return loss, {k: float(v) for k, v in metrics.items()}

    def after_step(self) -> None:
        pass

    def evaluate(self) -> Metrics:
        """Held-out cosine, and how much the decoder needs z."""
        rows = self._held_out[:: max(1, len(self._held_out) // 512)]
        return {k: float(v) for k, v in self.token.held_out(*self._tokens(rows)).items()}

    @torch.no_grad()
    def probe(self) -> Metrics:
        """R2 of linear probes for return and time, from z and from the mean-pooled tokens, on held-out episodes."""
        rows = np.concatenate([self._train[:: max(1, len(self._train) // 4000)], self._held_out])
        train = torch.arange(len(rows) - len(self._held_out))
        test = torch.arange(len(train), len(rows))
        parts = [self._tokens(part) for part in np.array_split(rows, max(1, len(rows) // ENCODE_BATCH))]
        features = {
            "z": torch.cat([self.token.encode(t, m) for t, m in parts]),
            "mean_pool": torch.cat([mean_pool(t, m) for t, m in parts]),
        }
        targets = torch.from_numpy(np.stack([self._target(c, r) for c, r in rows.tolist()]))
        return {
            f"probe/{name}_{what}": probe_r2(x, targets[:, i], train, test)
            for name, x in features.items()
            for i, what in enumerate(("return", "joints"))
        }

    def _target(self, c: int, row: int) -> np.ndarray:
        """(2,): return from here on, and the mean joint action relative to the state, along its largest direction."""
        cache = self._caches[c]
        episode = {e.ref.index: e for e in cache.episodes}[int(cache.episode[row])]
        frame = int(cache.frame[row])
        value = discounted_return(episode.reward, self._cfg.discount)[frame]
        ahead = episode.action[min(frame + 7, len(episode) - 1)] - episode.state[frame]
        return np.array([value, ahead[0]], dtype=np.float32)

    def _tokens(self, pairs: np.ndarray) -> tuple[Tensor, Tensor]:
        """Tokens and masks of (cache, row) pairs, cache by cache."""
        parts = [self._caches[c].tokens(pairs[pairs[:, 0] == c, 1]) for c in range(len(self._caches))]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _pairs(masks: list[np.ndarray]) -> np.ndarray:
    """(n, 2) of cache index and row where the masks are True."""
    return np.concatenate(
        [np.stack([np.full(int(m.sum()), c), np.flatnonzero(m)], axis=1) for c, m in enumerate(masks)]
    )
