"""Scripted multi-task data for pretraining: many scenes, decoded frames in plain arrays, one folder per shard.

This is a cache of what the twin can produce again from its seeds, not a dataset; demos and rollouts are recorded with the
recorder like everybody's.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
from rich.progress import track

from ..robot.control import Step
from ..robot.geometry import down_facing, pose
from ..robot.kinematics import Kinematics
from ..robot.rig import Rig
from ..robot.twin.cell import Cell, Episode
from ..robot.twin.pretrain_tasks import PretrainScenes
from ..robot.types import Floats
from .expert import ExpertCfg, ScriptedExpert
from .source import TeleopSource

MAX_START_TURN_RAD = 1.2  # further from home, inverse kinematics may have found another branch


@dataclass(frozen=True)
class MultitaskCfg:
    """How much scripted data, and how it is sampled."""

    episodes: int = 5000
    """Scripted episodes."""
    episodes_per_shard: int = 100
    """Episodes per file; an interrupted run goes on with the next file."""
    frame_stride: int = 2
    """Every n-th frame is kept, with a random phase per episode."""
    horizon: int = 16
    """Steps of each action chunk."""
    scattered_starts: float = 0.4
    """Share of episodes that start with the tool anywhere over the table instead of at home."""
    miss_rate: float = 0.15
    """Share of episodes with a deliberate first miss; the miss itself is masked."""
    first_seed: int = 0
    """Seed of the first episode; the others follow."""


def generate(rig: Rig, out: Path, cfg: MultitaskCfg, workers: int) -> list[Path]:
    """Make the shards that are not there yet, in parallel; returns all shard folders."""
    starts = range(0, cfg.episodes, cfg.episodes_per_shard)
    shards = [out / f"shard-{start:06d}" for start in starts]
    missing = [(shard, start) for shard, start in zip(shards, starts, strict=True) if not shard.exists()]
    jobs = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(
        joblib.delayed(_make_shard)(rig, shard, cfg, cfg.first_seed + start) for shard, start in missing
    )
    for _ in track(
        jobs, total=len(missing), description=f"simulating {len(missing) * cfg.episodes_per_shard} episodes"
    ):
        pass
    return shards


class _Collector:
    """StepSink that keeps every frame of one episode in memory."""

    def __init__(self, episode: Episode, expert: ScriptedExpert) -> None:
        self._episode, self._expert = episode, expert
        self.images: list[np.ndarray] = []
        self.states: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []
        self.good: list[bool] = []
        self.grounding: list[Floats] = []

    def add(self, step: Step) -> None:
        world, layout = self._episode.world, self._episode.layout
        self.images.append(np.stack([f.rgb for f in step.obs.frames.values()]))
        self.states.append(step.obs.arm.vector)
        self.actions.append(step.executed.vector)
        self.good.append(not self._expert.making_mistake)
        self.grounding.append(
            np.concatenate(
                [world.position(layout.movable.name), world.position(layout.target.name), world.tcp()[:3, 3]]
            )
        )

    def abort(self, reason: str) -> None:
        pass


def _make_shard(rig: Rig, shard: Path, cfg: MultitaskCfg, first_seed: int) -> None:
    kinematics = Kinematics(rig.arm)
    rows: dict[str, list[np.ndarray]] = {k: [] for k in ("images", "state", "chunk", "valid", "grounding", "episode")}
    instructions: list[str] = []
    with Cell(rig) as cell:
        task = PretrainScenes(rig)
        for seed in range(first_seed, first_seed + cfg.episodes_per_shard):
            rng = np.random.default_rng([seed, 1])
            episode = cell.reset(task, seed)
            if rng.random() < cfg.scattered_starts:
                episode.twin.place(episode.layout.poses, _scattered_q(kinematics, episode, rng))
            expert_cfg = ExpertCfg(
                speed_m_s=float(rng.uniform(0.24, 0.38)),
                slow_m_s=float(rng.uniform(0.09, 0.14)),
                travel_height_m=float(rng.uniform(0.15, 0.19)),
                wander_m=float(rng.uniform(0.004, 0.012)),
                miss_rate=cfg.miss_rate,
            )
            expert = ScriptedExpert(episode.world, episode.layout, rng, rig.control_hz, expert_cfg)
            sink = _Collector(episode, expert)
            result = cell.run(episode, TeleopSource(expert, kinematics, rig.control_hz), sinks=(sink,))
            if result.end.success:
                _append(rows, sink, len(instructions), int(rng.integers(cfg.frame_stride)), cfg)
                instructions.append(episode.layout.instruction)
    _write(shard, rows, instructions)


def _scattered_q(kinematics: Kinematics, episode: Episode, rng: np.random.Generator) -> Floats:
    """Joints for a tool position anywhere over the table, clear of the things on it, the elbow as it is at home."""
    home = episode.layout.home_q
    while True:
        position = rng.uniform((0.34, -0.25, 0.07), (0.62, 0.25, 0.28))
        gaps = [np.hypot(*(p[:2] - position[:2])) for p in episode.layout.poses.values()]
        if position[2] < 0.14 and min(gaps) < 0.17:
            continue
        X_BE = pose(position, down_facing(rng.normal(0, 0.1)))
        q = kinematics.inverse(X_BE, home, iterations=30)
        if np.abs(kinematics.forward(q) - X_BE).max() < 1e-3 and np.abs(q - home).max() < MAX_START_TURN_RAD:
            return q


def _append(rows: dict[str, list[np.ndarray]], sink: _Collector, episode: int, phase: int, cfg: MultitaskCfg) -> None:
    actions, good = np.stack(sink.actions), np.array(sink.good)
    n = len(actions)
    for i in range(phase, n, cfg.frame_stride):
        index = np.arange(i, i + cfg.horizon)
        inside = np.minimum(index, n - 1)
        rows["images"].append(sink.images[i])
        rows["state"].append(sink.states[i])
        rows["chunk"].append(actions[inside])
        rows["valid"].append((index < n) & good[inside])
        rows["grounding"].append(sink.grounding[i].astype(np.float32))
        rows["episode"].append(np.array(episode))


def _write(shard: Path, rows: dict[str, list[np.ndarray]], instructions: list[str]) -> None:
    """All or nothing: a shard folder exists only when it is complete."""
    part = shard.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name, values in rows.items():
        np.save(part / f"{name}.npy", np.stack(values))
    (part / "instructions.json").write_text(json.dumps(instructions))
    part.rename(shard)
