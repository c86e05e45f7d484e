"""The critic gate that needs an environment: what the critic prefers must be better where it counts (methods 2.6, point 4).

Episodes are paired, on tuning seeds: the base policy alone, and with Q-guidance, the very ascent that Q-VGM would teach it.
Interrupted, it goes on where it stopped; the study, with videos, is kept in the critic's folder.
"""

from pathlib import Path

from rich.console import Console

from ..robot.rig import Rig
from ..robot.seeds import seeds
from ..training import run
from ..training.critics.gate_report import GateReport
from ..training.critics.gates import GateCfg, beats_base
from ..training.stages.critic import add_gate, load_gates
from .agents import AnyAgent, Plain, QGuidance
from .twin_study import twin_study

GATE = "beats base"


def try_critic(
    rig: Rig, policy: Path, critic: Path, tasks: tuple[str, ...], *, trials: int, repetition: int, workers: int,
    console: Console | None = None,
) -> GateReport:  # fmt: skip
    """Run the trials and add their verdict to the critic's gates; a report that has it is returned as it is."""
    report = load_gates(critic)
    if any(gate.name == GATE for gate in report.gates):
        return report
    agents: dict[str, AnyAgent] = {"base": Plain(policy), "Q-guidance": QGuidance(policy, critic)}
    study = twin_study(
        critic / "trial", rig, agents, {task: seeds("tuning", task, trials, repetition) for task in tasks},
        workers=workers, title="Q-guidance against its base, tuning seeds", console=console,
    )  # fmt: skip
    pairs = next(c.table for c in study.comparison.contrasts if c.task is None)  # pooled over tasks
    limits = GateCfg(max_p_value=run.read_manifest(critic)["config"]["gates"]["max_p_value"])
    return add_gate(critic, beats_base(pairs.candidate_only, pairs.reference_only, pairs.n, limits))
