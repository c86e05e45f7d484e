"""The main job, end to end in the twin: demonstrations -> SFT -> rollouts -> RL token -> critic -> Q-VGM -> comparison."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from ..robot.errors import CheckpointError
from ..robot.rig import load_rig
from ..robot.seeds import seeds
from ..robot.twin.tasks import TASKS
from ..teleop.collect import Autonomous, CollectCfg, Scripted, collect
from ..teleop.expert import unsteady
from ..training.curves import plot
from ..training.loop import TrainCfg
from ..training.pi05_mini.load import SHIPPED
from ..training.stages.critic import CRITIC_TRAIN, CriticStageCfg, load_gates, run_critic
from ..training.stages.qvgm import QVGM_TRAIN, QVGMStageCfg, run_qvgm
from ..training.stages.rlt import RLT_TRAIN, RLTStageCfg, run_rlt
from ..training.stages.sft import SFT_TRAIN, SFTCfg, run_sft
from ..training.summary import show
from .agent_source import AgentFactory
from .agents import AnyAgent, Plain, QGuidance, QSelection
from .collect_commands import TREMOR_M, demonstrate, rollout_jobs
from .commands import show_study
from .critic_trial import try_critic
from .report import Extra
from .twin_study import twin_study

IMAGE_SIZE = (128, 96)  # px: what pi05-mini sees; recording more would only cost time here


@dataclass(frozen=True)
class Plan:
    """All sizes of one run of the loop."""

    out: Path
    demos: int = 30
    tremor_m: float = TREMOR_M
    rollouts: int = 200
    critic_trials: int = 50
    trials: int = 50
    repetition: int = 0
    workers: int = 2
    sft: TrainCfg = SFT_TRAIN
    rlt: TrainCfg = RLT_TRAIN
    critic: TrainCfg = CRITIC_TRAIN
    qvgm: TrainCfg = QVGM_TRAIN
    ignore_gates: bool = False


def quick(plan: Plan) -> Plan:
    """A tour of every step in three minutes; far too little of everything for a better policy."""
    return replace(
        plan,
        demos=2,
        rollouts=8,
        critic_trials=2,
        trials=4,
        sft=replace(plan.sft, steps=200),
        rlt=replace(plan.rlt, steps=30),
        critic=replace(plan.critic, steps=150),
        qvgm=replace(plan.qvgm, steps=15),
        ignore_gates=True,
    )


def demo(
    out: Path = Path("runs/demo"),
    quick_tour: bool = False,
    repetition: int = 0,
    trials: int = 50,
    ignore_gates: bool = False,
    workers: int = 2,
) -> None:
    """Improve a few-shot policy from its own experience in the twin, and compare it with where it started.

    About 20 minutes on two cores. Interrupt it whenever you like: the same command goes on where it stopped.

    Args:
        out: Folder of everything this makes.
        quick_tour: Three minutes through every step, with far too little data.
        repetition: Which of the ten independent sets of seeds, for demos, rollouts and evaluation alike.
        trials: Trials per task and policy at the end.
        ignore_gates: Run Q-VGM although the critic failed its gates.
        workers: Episodes simulated at a time.
    """
    plan = Plan(out, repetition=repetition, trials=trials, ignore_gates=ignore_gates, workers=workers)
    run_loop(quick(plan) if quick_tour else plan)


def run_loop(plan: Plan) -> None:
    """Every stage of the loop; finished ones are skipped."""
    out, cache, tasks = plan.out, plan.out / "cache", tuple(TASKS)
    rig = load_rig().with_image_size(*IMAGE_SIZE)
    console = Console()
    started = time.monotonic()

    with _step(console, "1/7  demonstrations", f"{plan.demos} per task, by a scripted operator with an unsteady hand"):
        operator = Scripted(unsteady(plan.tremor_m))
        demonstrate(rig, tasks, plan.demos, operator, out / "demos", repetition=plan.repetition, workers=plan.workers)

    with _step(console, "2/7  SFT", "the action expert learns from the demos, the vision-language prefix stays frozen"):
        sft = SFTCfg(out / "demos", out / "sft", cache=cache, train=plan.sft)
        show("sft", sft.out, run_sft(sft), console)

    with _step(console, "3/7  rollouts", f"{plan.rollouts} attempts of the SFT policy per task"):
        jobs = rollout_jobs(tasks, plan.rollouts, plan.repetition)
        collect(rig, jobs, Autonomous(AgentFactory(Plain(sft.out))), out / "rollouts", CollectCfg(plan.workers))

    with _step(console, "4/7  RL token", "one vector that says what the frozen prefix said"):
        rlt = RLTStageCfg((out / "rollouts", out / "demos"), out / "rlt", policy=sft.out, cache=cache, train=plan.rlt)
        show("rlt", rlt.out, run_rlt(rlt), console)

    with _step(console, "5/7  critic", "the value of action chunks, from the rollouts, and whether it can be trusted"):
        critic = CriticStageCfg((out / "rollouts",), sft.out, rlt.out, out / "critic", cache=cache, train=plan.critic)
        show("critic", critic.out, run_critic(critic), console)
        gates = try_critic(
            rig, sft.out, critic.out, tasks, trials=plan.critic_trials, repetition=plan.repetition,
            workers=plan.workers, console=console,
        )  # fmt: skip
        console.print(str(gates))

    with _step(console, "6/7  Q-VGM", "the action expert learns the critic's corrections"):
        qvgm = QVGMStageCfg(
            (out / "rollouts",), sft.out, critic.out, out / "qvgm", cache=cache, train=plan.qvgm,
            ignore_gates=plan.ignore_gates,
        )  # fmt: skip
        improved = _improve(qvgm, console)

    with _step(console, "7/7  comparison", f"{plan.trials} blinded, paired trials per task and policy on unseen seeds"):
        agents: dict[str, AnyAgent] = {
            "SFT": Plain(sft.out),
            "base": Plain(SHIPPED),
            "SFT, no noise": Plain(sft.out, noise_std=0.0),
            "Q-selection": QSelection(sft.out, critic.out),
            "Q-guidance": QGuidance(sft.out, critic.out),
        }
        if improved:
            agents["Q-VGM"] = Plain(qvgm.out)
        stages = [("sft", sft.out), ("RL token", rlt.out), ("critic", critic.out)]
        stages += [("Q-VGM", qvgm.out)] if improved else []
        extras = [Extra(f"training: {name}", plot(folder, title=name)) for name, folder in stages]
        extras.append(Extra("critic gates", _gates_html(critic.out)))
        unseen = {task: seeds("evaluation", task, plan.trials, plan.repetition) for task in tasks}
        study = twin_study(
            out / "comparison", rig, agents, unseen, workers=plan.workers, title="Q-VGM in the twin", extras=extras,
            console=console,
        )  # fmt: skip
        show_study(study)
    console.print(f"all steps: {(time.monotonic() - started) / 60:.1f} minutes")


def _improve(cfg: QVGMStageCfg, console: Console) -> bool:
    """Run Q-VGM unless the critic failed its gates; the comparison is worth seeing without it, too."""
    try:
        show("qvgm", cfg.out, run_qvgm(cfg), console)
    except CheckpointError as error:
        if load_gates(cfg.critic).passed:
            raise
        console.print(f"[bold yellow]No Q-VGM policy:[/bold yellow] {error}")
        return False
    return True


def _gates_html(critic: Path) -> str:
    rows = "".join(
        f"<tr><td>{'pass' if g.passed else '<strong>FAIL</strong>'}</td><td>{g.name}</td><td>{g.value:.3g}</td>"
        f"<td>{g.sense.replace('<', '&lt;').replace('>', '&gt;')} {g.threshold:g}</td><td>{g.meaning}</td></tr>"
        for g in load_gates(critic).gates
    )
    return f"<table><tr><th></th><th>gate</th><th>value</th><th>threshold</th><th>meaning</th></tr>{rows}</table>"


@contextmanager
def _step(console: Console, name: str, meaning: str) -> Iterator[None]:
    console.rule(f"[bold]{name}[/bold]  {meaning}")
    started = time.monotonic()
    yield
    console.print(f"[dim]{name}: {time.monotonic() - started:.0f} s[/dim]")


COMMANDS = demo
