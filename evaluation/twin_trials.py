"""Trials and rollouts of agents in the twin."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Generator

from ..robot.control import CommandSource, LoopCfg, run_episode
from ..robot.errors import SafetyStop
from ..robot.rig import Rig
from ..robot.twin.cell import Cell, Episode
from ..robot.twin.film import Film, side_by_side
from ..robot.twin.task import MILESTONES
from ..robot.twin.tasks import get_task
from ..training.stages.sft import weights_hash
from .agents import AnyAgent, load_cached
from .policy_source import PolicySource
from .trials import TrialOutcome


@dataclass(frozen=True)
class AgentFactory:
    """SourceFactory of `teleop.collect` for autonomous rollouts."""

    agent: AnyAgent
    operator: str = "policy"

    @property
    def policy_hash(self) -> str:
        return weights_hash(self.agent.checkpoint)

    def __call__(self, episode: Episode, rig: Rig, seed: int) -> CommandSource:
        return agent_source(self.agent, episode, seed)


def agent_source(agent: AnyAgent, episode: Episode, seed: int) -> PolicySource:
    """The agent's noise depends on the seed alone: paired trials of two policies see the same noise."""
    torch.set_num_threads(1)  # workers share the cores among episodes, not within one
    loaded = load_cached(agent)
    rng = Generator().manual_seed(seed)
    return PolicySource(loaded.policy, loaded.sampler, episode.layout.instruction, rng)


@dataclass(frozen=True)
class TwinTrials:
    """RunTrial of the evaluation runner: one blinded trial in the twin."""

    rig: Rig
    agents: Mapping[str, AnyAgent]
    max_steps: int = 120

    def __call__(self, policy: str, task: str, seed: int, video: Path | None) -> TrialOutcome:
        cell = _shared_cell(self.rig)
        episode = cell.reset(get_task(task), seed)
        started = cell.clock.now()
        try:
            with Film(video, self.rig.control_hz) as film:
                if video is not None:  # how it began, also of a trial that is stopped before its first step
                    film.show(side_by_side([c.latest(max_age_s=1.0).rgb for c in episode.cameras.values()]))
                result = run_episode(
                    arm=episode.arm,
                    cameras=episode.cameras,
                    source=agent_source(self.agents[policy], episode, seed),
                    safety=episode.safety,
                    clock=cell.clock,
                    cfg=LoopCfg(fps=self.rig.control_hz, max_steps=self.max_steps),
                    monitor=episode.judge,
                    sinks=film.sinks,
                )
        except SafetyStop:  # the policy asked for what must not be done: it failed, the study goes on
            return TrialOutcome(
                success=False,
                end_reason="safety stop",
                terminated=True,
                milestones=episode.judge.milestone,
                milestones_total=len(MILESTONES),
                duration_s=cell.clock.now() - started,
                steps=round((cell.clock.now() - started) * self.rig.control_hz),
                safety_flags=0,
            )
        return TrialOutcome(
            success=bool(result.end.success),
            end_reason=result.end.reason,
            terminated=result.end.terminated,
            milestones=episode.judge.milestone,
            milestones_total=len(MILESTONES),
            duration_s=result.stats.steps / self.rig.control_hz,
            steps=result.stats.steps,
            safety_flags=result.stats.limited,
        )


@lru_cache(maxsize=2)
def _shared_cell(rig: Rig) -> Cell:
    """One per process: making models and OpenGL contexts costs more than a trial."""
    return Cell(rig)
