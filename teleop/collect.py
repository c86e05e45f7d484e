"""Many recorded episodes in the twin, in parallel: scripted demos and autonomous rollouts alike.

Workers simulate and record a round of episodes while the round before it is committed, in the order of the jobs, so that
the dataset does not depend on who was faster. A run that was interrupted goes on with the jobs that are not in it yet.
"""

import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import joblib
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..calibration.store import from_spec, to_texts
from ..datasets.appender import CommitCfg
from ..datasets.commit import commit_spool
from ..datasets.labels import EpisodeLabel, newest_labels
from ..datasets.layout import read_info
from ..datasets.schema import make_schema
from ..datasets.spool import SpoolCfg, SpoolWriter
from ..robot.control import CommandSource, EpisodeResult
from ..robot.errors import DataError, SafetyStop
from ..robot.kinematics import Kinematics
from ..robot.rig import ARMS, Rig
from ..robot.twin.cell import Cell, Episode, episode_rng
from ..robot.twin.tasks import get_task
from .expert import ExpertCfg, ScriptedExpert
from .handover import PlannerFactory
from .source import TeleopSource

ROUND = 24  # episodes between commits


@dataclass(frozen=True)
class Job:
    """One episode to record."""

    task: str
    seed: int


class SourceFactory(Protocol):
    """Makes the decider of an episode; must survive pickling into a worker."""

    @property
    def operator(self) -> str:
        """Who acts, for the label."""
        ...

    @property
    def policy_hash(self) -> str:
        """Checkpoint that acts, '' for people and scripts."""
        ...

    def __call__(self, episode: Episode, rig: Rig, seed: int) -> CommandSource: ...


@dataclass(frozen=True)
class Scripted:
    """The scripted operator, as untidy as `cfg` says."""

    cfg: ExpertCfg = ExpertCfg()
    operator: str = "scripted"
    policy_hash: str = ""

    def __call__(self, episode: Episode, rig: Rig, seed: int) -> CommandSource:
        rng = np.random.default_rng([seed, 1])
        expert = ScriptedExpert(episode.world, episode.layout, rng, rig.control_hz, self.cfg)
        return TeleopSource(expert, Kinematics(rig.arm), rig.control_hz)


@dataclass(frozen=True)
class Autonomous:
    """A policy on its own."""

    policy: PlannerFactory

    @property
    def operator(self) -> str:
        return self.policy.operator

    @property
    def policy_hash(self) -> str:
        return self.policy.policy_hash

    def __call__(self, episode: Episode, rig: Rig, seed: int) -> CommandSource:
        return self.policy(episode.layout.instruction, seed)


@dataclass(frozen=True)
class CollectCfg:
    """How episodes are collected in the twin."""

    workers: int = 2
    max_steps: int = 120
    """Time limit of an episode, in control periods."""
    keep_failures: bool = True
    """Record failed episodes, too; demonstrations are better without."""


def collect(rig: Rig, jobs: Sequence[Job], factory: SourceFactory, root: Path, cfg: CollectCfg) -> None:
    """Record the jobs that dataset `root` does not have yet. Raises SafetyStop if it stopped all of the first episodes."""
    waiting = missing_jobs(rig, jobs, root)
    # Not a session's spool folder: a person's recordings may wait there.
    rounds = root.with_name(root.name + ".rounds")
    shutil.rmtree(rounds, ignore_errors=True)  # rounds that were not committed are simulated again
    with _progress() as bar, ThreadPoolExecutor(1) as committer, joblib.Parallel(n_jobs=cfg.workers) as pool:
        task = bar.add_task(root.name, total=len(jobs), completed=len(jobs) - len(waiting))
        commit: Future[object] | None = None
        for start in range(0, len(waiting), ROUND):
            folder = rounds / f"round-{start:06d}"
            batch = waiting[start : start + ROUND]
            parts = [batch[i :: cfg.workers] for i in range(cfg.workers)]
            stops: Any = pool(
                joblib.delayed(record)(rig, part, factory, folder / f"{i}", cfg) for i, part in enumerate(parts)
            )
            _report(sum(stops, []), batch, bar, drives=start > 0 or bool(recorded_labels(root)))
            _merge_in_order(folder, batch)
            if commit is not None:
                commit.result()
            commit = committer.submit(_commit, folder, root)
            bar.advance(task, len(batch))
        if commit is not None:
            commit.result()
    shutil.rmtree(rounds, ignore_errors=True)


def missing_jobs(rig: Rig, jobs: Sequence[Job], root: Path) -> list[Job]:
    """The jobs that dataset `root` has no episode of. Two tasks may share a seed: the instruction tells them apart."""
    done = {(label.task, label.seed) for label in recorded_labels(root)}
    home_q = np.array(rig.arm.home_q)
    layouts = (get_task(job.task).layout(episode_rng(get_task(job.task), job.seed), home_q) for job in jobs)
    return [job for job, layout in zip(jobs, layouts, strict=True) if (layout.instruction, job.seed) not in done]


def recorded_labels(root: Path) -> list[EpisodeLabel]:
    """Labels of the episodes that dataset `root` has."""
    # By the count in info.json: an episode that a kill cut off just before it has a label, but does not exist.
    total = int((read_info(root) or {"total_episodes": 0})["total_episodes"])
    return [label for index, label in newest_labels(root).items() if index < total]


def record(rig: Rig, jobs: Sequence[Job], factory: SourceFactory, folder: Path, cfg: CollectCfg) -> list[str]:
    """Simulate and record jobs one after the other, one spool file each (none for a failure that is not kept).

    Returns why safety stopped the episodes that are not recorded: what was asked for there was never executed.
    """
    stops: list[str] = []
    schema = make_schema(ARMS[rig.arm.model], [c.spec() for c in rig.cameras], rig.control_hz)
    calibration = to_texts({c.name: from_spec(c.spec(), date=c.calibration_date) for c in rig.cameras})
    with Cell(rig) as cell:
        for job in jobs:
            episode = cell.reset(get_task(job.task), job.seed)
            sink = SpoolWriter(
                folder, schema, task=episode.layout.instruction, seed=job.seed, rig_hash=rig.hash,
                policy_hash=factory.policy_hash, calibration=calibration, cfg=SpoolCfg(sync=False),
            )  # fmt: skip
            try:
                result = cell.run(episode, factory(episode, rig, job.seed), max_steps=cfg.max_steps, sinks=(sink,))
            except SafetyStop as stop:
                stops.append(str(stop))
                continue
            label = label_of(result, episode, factory.operator)
            path = sink.save(label) if label.success or cfg.keep_failures else sink.discard("failed demonstration")
            path.rename(path.with_name(f"{job.task}-{job.seed}{_suffix(path)}"))
    return stops


def label_of(result: EpisodeResult, episode: Episode, operator: str) -> EpisodeLabel:
    """What the twin's judge says of an episode."""
    success = bool(result.end.success)
    return EpisodeLabel(
        outcome="success" if success else "failure",
        terminated=result.end.terminated,
        failure_tag="" if success else result.end.reason,
        milestone=float(episode.judge.milestone),
        operator=operator,
        loop=result.stats,
        notes="" if success else episode.judge.status.reasons,
    )


def _report(stops: list[str], batch: Sequence[Job], bar: Progress, *, drives: bool) -> None:
    """Name episodes that safety stopped. Raises SafetyStop if it stopped all of a round and nothing shows that this
    operator `drives`: the last few jobs of a collection may be just those that are stopped every time."""
    if len(stops) == len(batch) and not drives:
        raise SafetyStop(f"all {len(batch)} episodes of a round were stopped, the last one because: {stops[-1]}")
    if stops:
        bar.console.print(f"not recorded: {len(stops)} of {len(batch)} episodes, {stops[-1]}")


def _merge_in_order(folder: Path, batch: Sequence[Job]) -> None:
    """Files of all workers into `folder`, named so that they sort by job."""
    found = {p.name.split(".")[0]: p for p in folder.glob("*/*.h5")}
    for i, job in enumerate(batch):
        path = found.get(f"{job.task}-{job.seed}")
        if path is not None:
            path.rename(folder / f"{i:04d}-{path.name}")


def _commit(folder: Path, root: Path) -> None:
    """Append a round to the dataset. Raises DataError if a recording is damaged: its seed would silently be missing."""
    report = commit_spool(folder, root, cfg=CommitCfg(sync=False))
    if report.rejected:
        reasons = "; ".join(f"{path.name}: {reason}" for path, reason in report.rejected)
        raise DataError(f"{root}: not all that was recorded could be committed, run again to record it anew: {reasons}")
    shutil.rmtree(folder)


def _suffix(path: Path) -> str:
    return path.name[path.name.index(".") :]


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
