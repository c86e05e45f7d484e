"""Training the chunk critic on rollouts, and holding its gates."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn

from ...datasets.chunks import ChunkCfg, dataset_transitions
from ...datasets.episodes import dataset_hash
from ...robot.errors import ConfigError
from .. import run
from ..critics.ascent import embedded_ascent
from ..critics.cal_ql import CalQL, CalQLCfg
from ..critics.ema import ema_update, frozen_copy
from ..critics.ensemble import CriticCfg, CriticEnsemble, ValueNet, embedded_critic
from ..critics.gate_report import Gate, GateReport
from ..critics.gates import GateCfg, critic_gates, return_gates
from ..critics.iql import IQL, IQLCfg
from ..critics.objective import ChunkBatch
from ..critics.qfunction import QFunction, scaled
from ..critics.sarsa import Sarsa, SarsaCfg
from ..critics.space import CriticSpace
from ..curves import plot
from ..loop import Metrics, TrainCfg, train
from ..pi05_mini.load import load_policy
from ..pi05_mini.modeling_pi05_mini import PI05MiniPolicy
from ..prefix_cache import PrefixCache, build, prefix_hash
from ..proposals import base_centres, base_proposals
from .rlt import encode_cache, load_rlt
from .sft import split_episodes, weights_hash

Objective = CalQLCfg | IQLCfg | SarsaCfg

CRITIC_TRAIN = TrainCfg(steps=800, lr=3e-4, weight_decay=0.01, eval_every=200, final_lr=0.1)


@dataclass(frozen=True)
class CriticStageCfg:
    """Critic for the embedded policy."""

    data: tuple[Path, ...]
    """LeRobot datasets of labelled rollouts."""
    policy: Path
    """The policy whose actions it will judge: the SFT checkpoint."""
    rlt: Path
    """Folder of the trained RL token."""
    out: Path
    """Folder of this run."""
    cache: Path = Path("runs/cache")
    """Where prefix outputs are kept."""
    bayesian_bootstrap: bool = True
    """Every head weighs the episodes differently (exponential weights), so that heads disagree on what chance decided."""
    z_noise: float = 1.0
    """Standard deviation of noise on the RL token in training, which has unit mean square: few episodes are otherwise
    learned by heart."""
    objective: Objective = field(default_factory=lambda: SarsaCfg(monte_carlo=1.0))
    network: CriticCfg = field(default_factory=embedded_critic)
    discount: float = 0.99
    """Per control step."""
    stride: int = 8
    """Steps between the starts of chunks: as many as the policy executed of each. A chunk that starts in the middle of
    one holds actions that were decided later, on images that the critic's state does not show, and Q would take what
    the policy saw for what the action did."""
    batch_size: int = 256
    """Chunks per step."""
    target_ema_rate: float = 0.005
    """Share of the critic's weights that its target takes over in every step."""
    held_out: float = 0.1
    """Share of episodes that no head learns from, for the gates on actions."""
    folds: int = 5
    """Every head leaves out one of so many parts of the other episodes, too: returns are foretold, for the scores and
    the gates on them, by the heads that have not seen the episode. A tenth of a few hundred binary outcomes says little."""
    gates: GateCfg = field(default_factory=lambda: GateCfg(ascent=embedded_ascent()))
    train: TrainCfg = CRITIC_TRAIN


@dataclass(frozen=True, eq=False)
class Critic:
    """A trained critic with all that is needed to ask it about a policy's chunks."""

    ensemble: CriticEnsemble
    space: CriticSpace
    q_std: float  # of Q over the data: guidance weights are in units of it
    rlt: Path

    def judge(self, z: Tensor, proprio: Tensor, centre: Tensor | None) -> QFunction:
        """`CriticEnsemble.judge` in units of `q_std`."""
        return scaled(self.ensemble.judge(z, proprio, centre), self.q_std)

    @property
    def needs_centre(self) -> bool:
        """Whether `judge` has to be given the base policy's chunk without noise."""
        return self.ensemble.cfg.relative


def run_critic(cfg: CriticStageCfg) -> Metrics:
    """Train, save, hold the gates (gates.json); returns held-out scores."""
    policy = load_policy(cfg.policy)
    inputs = {f"data{i}": dataset_hash(p) for i, p in enumerate(cfg.data)}
    inputs |= {"policy": weights_hash(cfg.policy), "rlt": run.file_hash(cfg.rlt / "rlt.safetensors")}
    if run.begin(cfg.out, "critic", cfg, inputs):
        return run.read_manifest(cfg.out)["metrics"]
    token = load_rlt(cfg.rlt, prefix_hash(policy))
    caches = [build(policy, path, cfg.cache, stride=cfg.stride) for path in cfg.data]
    parts = [chunk_data(policy, c, encode_cache(token, c), cfg) for c in caches]
    stage = CriticStage(ChunkData.cat(parts), cfg)
    metrics = train(stage, cfg.train, cfg.out)
    report = stage.gates(metrics["held_out/q_std"])
    run.write_json(cfg.out / "gates.json", report.to_dict())
    save_critic(cfg.out, stage.critic, stage.space, metrics["held_out/q_std"], cfg)
    plot(cfg.out, title="critic")
    run.finish(cfg.out, metrics)
    return metrics


def save_critic(out: Path, critic: CriticEnsemble, space: CriticSpace, q_std: float, cfg: CriticStageCfg) -> None:
    tensors = {f"critic.{k}": v.contiguous() for k, v in critic.state_dict().items()}
    tensors |= {"space.low": space.low.contiguous(), "space.high": space.high.contiguous()}
    meta = {"network": run.to_json(cfg.network), "q_std": q_std, "rlt": str(cfg.rlt)}
    save_file(tensors, out / "critic.safetensors", {"meta": json.dumps(meta)})
    run.write_json(out / "critic.json", meta)


def load_critic(out: Path) -> Critic:
    """Raises CheckpointError if the stage in `out` has not finished."""
    run.read_manifest(out)
    meta = json.loads((out / "critic.json").read_text())
    tensors = load_file(out / "critic.safetensors")
    low, high = tensors.pop("space.low"), tensors.pop("space.high")
    network: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in meta["network"].items() if k != "type"
    }
    state = {k.removeprefix("critic."): v for k, v in tensors.items()}
    proprio_dim = state["proprio.weight"].shape[1]
    cfg = CriticCfg(**network)
    ensemble = CriticEnsemble(
        cfg,
        z_dim=state["state_layers.0.weight"].shape[1] - cfg.proprio_width,
        proprio_dim=proprio_dim,
        chunk_shape=(low.shape[0], low.shape[1]),
        rng=Generator(),
    )
    ensemble.load_state_dict(state)
    space = CriticSpace(low, high, ensemble.directions)
    return Critic(ensemble.requires_grad_(False).eval(), space, meta["q_std"], Path(meta["rlt"]))


def load_gates(out: Path) -> GateReport:
    """The gate report beside a trained critic."""
    run.read_manifest(out)
    return GateReport.from_dict(json.loads((out / "gates.json").read_text()))


def add_gate(out: Path, gate: Gate) -> GateReport:
    """Write a gate that was measured elsewhere into the report beside a trained critic."""
    report = GateReport((*load_gates(out).gates, gate))
    run.write_json(out / "gates.json", report.to_dict())
    return report


@dataclass(frozen=True, eq=False)
class ChunkData:
    """All transitions as tensors, which episode they are from, and which are held out."""

    batch: ChunkBatch
    episode: Tensor  # (n,) int, unique over all datasets
    held_out: Tensor  # (n,) bool

    @staticmethod
    def cat(parts: "list[ChunkData]") -> "ChunkData":
        names = ChunkBatch.__dataclass_fields__
        joined = {n: torch.cat([getattr(p.batch, n) for p in parts]) for n in names}
        first = np.cumsum([0, *(int(p.episode.max()) + 1 for p in parts)])
        episode = torch.cat([p.episode + int(n) for p, n in zip(parts, first, strict=False)])
        return ChunkData(ChunkBatch(**joined), episode, torch.cat([p.held_out for p in parts]))


def chunk_data(policy: PI05MiniPolicy, cache: PrefixCache, z: Tensor, cfg: CriticStageCfg) -> ChunkData:
    """Transitions of one dataset in critic space."""
    cut = ChunkCfg(chunk=policy.n_action_steps, discount=cfg.discount, stride=cfg.stride)
    steps = dataset_transitions(cache.episodes, cut)
    row_of = cache.row_of()
    rows = torch.tensor([row_of[k] for k in zip(steps.episode.tolist(), steps.frame.tolist(), strict=True)])
    next_rows = torch.tensor(
        [row_of[_nearest(row_of, e, f)] for e, f in zip(steps.episode.tolist(), steps.next_frame.tolist(), strict=True)]
    )
    state = torch.from_numpy(np.array(cache.state))
    proprio = policy.state_norm.normalise(state)
    proposals, centre = base_proposals(policy, cache), base_centres(policy, cache)
    # After a time limit the dataset has no next chunk: what the base policy would do there stands in.
    cut_off = torch.from_numpy(steps.truncated)[:, None, None]
    next_chunk = torch.where(
        cut_off, proposals[next_rows, 0], _critic_chunk(policy, steps.next_actions, state[next_rows])
    )
    batch = ChunkBatch(
        z=z[rows],
        proprio=proprio[rows],
        chunk=_critic_chunk(policy, steps.actions, state[rows]),
        centre=centre[rows],
        reward=_tensor(steps.reward),
        bootstrap=_tensor(cfg.discount**steps.n_steps),
        terminated=torch.from_numpy(steps.terminated),
        next_z=z[next_rows],
        next_proprio=proprio[next_rows],
        next_chunk=next_chunk,
        next_centre=centre[next_rows],
        mc_return=_tensor(steps.mc_return),
        proposals=proposals[rows],
        weight=_tensor(steps.weight),
    )
    _, held_out = split_episodes(cache.episodes, cfg.held_out)
    return ChunkData(batch, torch.from_numpy(steps.episode), torch.from_numpy(np.isin(steps.episode, held_out)))


def _nearest(row_of: dict[tuple[int, int], int], episode: int, frame: int) -> tuple[int, int]:
    """The cached frame at or just before `frame`: chunks need not be a multiple of the cache's stride."""
    while (episode, frame) not in row_of:
        frame -= 1
    return episode, frame


def _critic_chunk(policy: PI05MiniPolicy, actions: np.ndarray, state: Tensor) -> Tensor:
    return policy.to_flow(_tensor(actions), state)


def _tensor(x: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(x, dtype=np.float32))


class CriticStage:
    """Stage: one of the objectives on all training transitions."""

    name = "critic"

    def __init__(self, data: ChunkData, cfg: CriticStageCfg) -> None:
        self._cfg = cfg
        rng = Generator().manual_seed(cfg.train.seed)
        share = head_shares(int(data.episode.max()) + 1, cfg, rng)[data.episode] * ~data.held_out[:, None]  # (n, heads)
        self._all, self._unseen = data.batch, share == 0
        weighted = replace(data.batch, weight=data.batch.weight[:, None] * share)
        self._train, self._held_out = select(weighted, ~data.held_out), select(data.batch, data.held_out)
        b = self._train
        self.space = CriticSpace.of_data(torch.cat([b.chunk, b.proposals.flatten(0, 1)]), margin=0.05)
        shape = {"z_dim": b.z.shape[1], "proprio_dim": b.proprio.shape[1]}
        self.critic = CriticEnsemble(cfg.network, **shape, chunk_shape=(b.chunk.shape[1], b.chunk.shape[2]), rng=rng)
        self.critic.fit_directions(b.chunk, b.centre)
        self.space = replace(self.space, directions=self.critic.directions)
        self._target = frozen_copy(self.critic)
        self._objective = make_objective(cfg, self.space, shape, rng)
        # The target network is in the module so that a resumed run finds it again.
        self.module: nn.Module = nn.ModuleDict(
            {"critic": self.critic, "target": self._target, "objective": self._objective}
        )

    def loss(self, rng: Generator) -> tuple[Tensor, Metrics]:
        index = torch.randint(len(self._train.weight), (self._cfg.batch_size,), generator=rng)
        batch = select(self._train, index)
        noise = self._cfg.z_noise * torch.randn(2, *batch.z.shape, generator=rng)
        batch = replace(batch, z=batch.z + noise[0], next_z=batch.next_z + noise[1])
        loss, metrics = self._objective.loss(self.critic, self._target, batch, rng)
        return loss, {k: float(v) for k, v in metrics.items()}

    def after_step(self) -> None:
        ema_update(self._target, self.critic, self._cfg.target_ema_rate)

    @torch.no_grad()
    def evaluate(self) -> Metrics:
        """Error and correlation with the return, every episode by the heads that have not seen it."""
        q, g = self._foretold(), self._all.mc_return
        return {
            "held_out/return_error": float((q - g).abs().mean()),
            "held_out/correlation": float(torch.corrcoef(torch.stack([q, g]))[0, 1]),
            "held_out/q_std": float(q.std()),
        }

    @torch.no_grad()
    def _foretold(self) -> Tensor:
        """Q of all data (n,). Exact for Monte-Carlo targets; a bootstrapped one may hear of an episode from other heads."""
        b, unseen = self._all, self._unseen.T  # (heads, n)
        q = self.critic.q(b.z, b.proprio, b.chunk, b.centre)  # (heads, n)
        return (q * unseen).sum(0) / unseen.sum(0)

    def gates(self, q_std: float) -> GateReport:
        rng = Generator().manual_seed(self._cfg.train.seed)
        order = torch.randperm(len(self._held_out.weight), generator=rng)[:1024]
        batch = select(self._held_out, order)
        on_actions = critic_gates(self.critic, batch, self.space, self._cfg.gates, rng, q_std=q_std)
        on_returns = return_gates(self._foretold(), self._all.mc_return, self._cfg.gates)
        return GateReport((*on_actions.gates, *on_returns.gates))


def head_shares(n_episodes: int, cfg: CriticStageCfg, rng: Generator) -> Tensor:
    """How much every head learns from every episode, (n_episodes, heads): 0 in the part that a head leaves out."""
    n_heads = cfg.network.n_heads
    if not 2 <= cfg.folds <= n_heads:
        raise ConfigError(f"critic: folds must be from 2 to the number of heads, {n_heads}, got {cfg.folds}")
    share = torch.ones(n_episodes, n_heads)
    if cfg.bayesian_bootstrap:
        share.exponential_(generator=rng)
    part = torch.randperm(n_episodes, generator=rng) % cfg.folds
    return share.masked_fill(part[:, None] == torch.arange(n_heads) % cfg.folds, 0.0)


def make_objective(
    cfg: CriticStageCfg, space: CriticSpace, shape: dict[str, int], rng: Generator
) -> CalQL | IQL | Sarsa:
    match cfg.objective:
        case CalQLCfg() as objective:
            return CalQL(objective, space)
        case IQLCfg() as objective:
            return IQL(objective, ValueNet(cfg.network, **shape, rng=rng))
        case SarsaCfg() as objective:
            return Sarsa(objective)


def select(batch: ChunkBatch, index: Tensor) -> ChunkBatch:
    """Rows of a batch by index or mask."""
    return ChunkBatch(**{n: getattr(batch, n)[index] for n in ChunkBatch.__dataclass_fields__})
