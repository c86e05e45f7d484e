"""`armflow pretrain`: scripted multi-task data -> pi05-mini -> weights with a card."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from ..robot.rig import DEFAULT_RIG, load_rig
from ..robot.seeds import seeds
from ..teleop.multitask import MultitaskCfg, generate
from ..training import run
from ..training.curves import plot
from ..training.loop import Metrics, train
from ..training.pi05_mini.save import save_half
from ..training.pretrain import PretrainCfg, PretrainData, PretrainStage, new_policy, with_fresh_expert
from .card import Score, score, write_card

IMAGE_SIZE = (128, 96)
WITH_EXPERT = "checkpoint-with-expert"


@dataclass(frozen=True)
class PretrainRun:
    """Everything that makes the shipped weights."""

    out: Path = Path("runs/pretrain")
    """Folder of this run."""
    data: MultitaskCfg = field(default_factory=lambda: MultitaskCfg(first_seed=seeds("pretrain", "pretrain", 1).start))
    recipe: PretrainCfg = field(default_factory=PretrainCfg)
    workers: int = 2
    """Episodes simulated at a time."""
    score_episodes: int = 100
    """Episodes per line of the card."""
    rig: Path = DEFAULT_RIG
    """Rig file."""


def pretrain(cfg: Annotated[PretrainRun, tyro.conf.arg(name="")]) -> None:
    """Train pi05-mini from scratch on scripted multi-task data in the twin, and write weights and card.

    The shipped weights keep the vision-language part alone: their action expert is fresh, as pi0.5's is after its
    pre-training, and SFT makes it. `checkpoint-with-expert` keeps both. Two hours on two cores; every part resumes where
    it was interrupted.
    """
    rig = load_rig(cfg.rig).with_image_size(*IMAGE_SIZE)
    shards = generate(rig, cfg.out / "data", cfg.data, cfg.workers)
    done = run.begin(cfg.out, "pretrain", replace(cfg, out=Path(), workers=1, score_episodes=0), {"rig": rig.hash})
    folder = cfg.out / "checkpoint"
    if not done:
        split = cfg.recipe.held_out_shards
        data, held_out = PretrainData(shards[split:]), PretrainData(shards[:split])
        policy = new_policy(data, tuple(c.name for c in rig.cameras), cfg.recipe.train.seed)
        metrics = train(PretrainStage(policy, data, held_out, cfg.recipe), cfg.recipe.train, cfg.out)
        save_half(policy, cfg.out / WITH_EXPERT)
        save_half(with_fresh_expert(policy, cfg.recipe.train.seed), folder)
        plot(cfg.out, title="pi05-mini pretraining")
        run.finish(cfg.out, metrics)
    _write_card(cfg, folder)


def _write_card(cfg: PretrainRun, folder: Path) -> None:
    metrics: Metrics = run.read_manifest(cfg.out)["metrics"]
    rig = load_rig(cfg.rig).with_image_size(*IMAGE_SIZE)
    scores: list[Score] = score(cfg.out / WITH_EXPERT, rig, cfg.score_episodes, cfg.workers)
    write_card(folder, cfg.data, cfg.recipe, metrics, scores)
    Console().print(f"weights and card: {folder}")


COMMANDS = pretrain
