"""The card beside pretrained weights: data, recipe, seeds, and scores with intervals and controls."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib

from ..robot.rig import Rig
from ..robot.seeds import seeds
from ..robot.twin.cell import Cell
from ..robot.twin.pretrain_tasks import PretrainScenes
from ..robot.twin.task import Task
from ..robot.twin.tasks import TASKS
from ..teleop.multitask import MultitaskCfg
from ..training.loop import Metrics
from ..training.pretrain import PretrainCfg
from .agents import AnyAgent, BlankedCameras, Plain
from .statistics import Rate, wilson
from .twin_trials import attempt


@dataclass(frozen=True)
class Score:
    """Success of one agent on one kind of scene."""

    what: str
    rate: Rate


def score(checkpoint: Path, rig: Rig, episodes: int, workers: int) -> list[Score]:
    """Success on new scenes of the pretraining kind, there with blanked cameras, and on both evaluation tasks.

    All on tuning seeds: the evaluation seeds are for comparisons.
    """
    plain, blind = Plain(checkpoint), BlankedCameras(checkpoint)
    lines: list[tuple[str, AnyAgent, Task]] = [
        ("new scenes of the pretraining kind", plain, PretrainScenes(rig)),
        ("the same with both cameras blanked", blind, PretrainScenes(rig)),
        *((f"{name}, never seen in training", plain, task) for name, task in TASKS.items()),
    ]
    return [Score(what, _rate(agent, task, rig, episodes, workers)) for what, agent, task in lines]


def _rate(agent: AnyAgent, task: Task, rig: Rig, episodes: int, workers: int) -> Rate:
    chosen = seeds("tuning", task.name, episodes)
    parts: Any = joblib.Parallel(n_jobs=workers)(
        joblib.delayed(_successes)(agent, task, rig, chosen[i::workers]) for i in range(workers)
    )
    return wilson(sum(parts), episodes, confidence=0.95)


def _successes(agent: AnyAgent, task: Task, rig: Rig, chosen: range) -> int:
    with Cell(rig) as cell:
        return sum(attempt(cell, task, agent, seed).success for seed in chosen)


def write_card(folder: Path, data: MultitaskCfg, recipe: PretrainCfg, metrics: Metrics, scores: list[Score]) -> None:
    """README.md beside the weights."""
    rows = "\n".join(
        f"| {s.what} | {s.rate.successes} / {s.rate.n} | {s.rate.value:.0%} "
        f"({s.rate.interval.low:.0%} to {s.rate.interval.high:.0%}) |"
        for s in scores
    )
    last = data.first_seed + data.episodes - 1
    text = f"""# pi05-mini, pretrained in the twin

A small policy with the structure of pi0.5, in the place of the pretrained pi0.5 wherever there is no GPU. It has seen
simulation only: do not put it on a real arm.

The vision-language part is trained, with an action expert beside it. In these weights that expert is a fresh one, as in
pi0.5 after its pre-training: they move nothing until SFT has made an expert from demonstrations. The scores below are those
of the expert that was trained with it, to say what the vision-language part can support.

* **Data.** {data.episodes} scripted episodes (seeds {data.first_seed} to {last}) of pick-and-place with balls, blocks,
  cans and cups into bowls and onto plates: random sizes, colours, poses, words, lights, camera poses. Every
  {data.frame_stride}. frame, {data.horizon}-step chunks; {data.scattered_starts:.0%} of the episodes start anywhere over
  the table, {data.miss_rate:.0%} begin with a deliberate miss (masked). None of the evaluation tasks' objects.
* **Training.** {recipe.train.steps} steps of {recipe.batch_size} observations with {recipe.noises} noisy chunks each,
  AdamW, peak learning rate {recipe.train.lr:g}, seed {recipe.train.seed}; flow matching plus {recipe.grounding_weight:g}
  x localisation of the named things. `armflow pretrain` does it again.
* **Held out.** Flow loss {metrics["held_out/flow"]:.4f}; the object is located to {metrics["held_out/object_cm"]:.1f} cm,
  its target to {metrics["held_out/target_cm"]:.1f} cm.

| scenes (tuning seeds) | successes | rate (95 % Wilson interval) |
|---|---|---|
{rows}

Weights in half precision, statistics in single precision. Apache-2.0.
"""
    (folder / "README.md").write_text(text)
