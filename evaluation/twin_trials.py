"""Trials of agents in the twin."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..robot.control import EpisodeEnd
from ..robot.errors import SafetyStop
from ..robot.rig import Rig
from ..robot.twin.cell import Cell
from ..robot.twin.film import Film, side_by_side
from ..robot.twin.task import MILESTONES, Task
from ..robot.twin.tasks import get_task
from .agent_source import agent_source
from .agents import AnyAgent
from .trials import TrialOutcome

MAX_STEPS = 120  # time limit of a trial, ticks


@dataclass(frozen=True)
class TwinTrials:
    """RunTrial of the evaluation runner: one blinded trial in the twin."""

    rig: Rig
    agents: Mapping[str, AnyAgent]
    max_steps: int = MAX_STEPS

    def __call__(self, policy: str, task: str, seed: int, video: Path | None) -> TrialOutcome:
        return attempt(_shared_cell(self.rig), get_task(task), self.agents[policy], seed, self.max_steps, video)


def attempt(
    cell: Cell, task: Task, agent: AnyAgent, seed: int, max_steps: int = MAX_STEPS, video: Path | None = None
) -> TrialOutcome:
    """One try at a task. An agent that safety stops has failed: it asked for what must not be done."""
    episode = cell.reset(task, seed)
    started = cell.clock.now()
    try:
        with Film(video, cell.rig.control_hz) as film:
            if video is not None:  # how it began, also of a trial that is stopped before its first step
                film.show(side_by_side([c.latest(max_age_s=1.0).rgb for c in episode.cameras.values()]))
            source = agent_source(agent, episode.layout.instruction, seed)
            result = cell.run(episode, source, max_steps=max_steps, sinks=film.sinks)
        end, steps, limited = result.end, result.stats.steps, result.stats.limited
    except SafetyStop:
        end = EpisodeEnd("safety stop", terminated=True, success=False)
        steps, limited = round((cell.clock.now() - started) * cell.rig.control_hz), 0
    return TrialOutcome(
        success=bool(end.success),
        end_reason=end.reason,
        terminated=end.terminated,
        milestones=episode.judge.milestone,
        milestones_total=len(MILESTONES),
        duration_s=steps / cell.rig.control_hz,
        steps=steps,
        safety_flags=limited,
    )


@lru_cache(maxsize=2)
def _shared_cell(rig: Rig) -> Cell:
    """One per process: making models and OpenGL contexts costs more than a trial."""
    return Cell(rig)
