"""`armflow eval ...`."""

from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from ..robot.rig import DEFAULT_RIG, load_rig
from ..robot.seeds import Purpose, seeds
from .agents import AnyAgent, Plain, QGuidance, QSelection
from .collect_commands import TaskName
from .critic_trial import try_critic
from .study import Study, report_study
from .table import rich_table
from .twin_study import twin_study
from .wording import conclusions


def compare(
    a: Annotated[Path, tyro.conf.arg(metavar="A")],
    b: Annotated[Path, tyro.conf.arg(metavar="B")],
    /,
    out: Path | None = None,
    critic: Path | None = None,
    tasks: tuple[TaskName, ...] = ("pick_peach", "stack_bowls"),
    trials: int = 50,
    seeds_of: Purpose = "evaluation",
    repetition: int = 0,
    image_size: tuple[int, int] = (128, 96),
    workers: int = 2,
    rig: Path = DEFAULT_RIG,
) -> None:
    """Compare policy B with policy A by blinded, paired trials in the twin, and write an HTML report.

    Args:
        a: Reference checkpoint, or the folder of the stage that made it.
        b: Candidate checkpoint.
        out: Folder of the study: plan, key, results, videos, report; runs/compare/A-B by default. Run again to go on
            after an interruption.
        critic: Also compare Q-selection and Q-guidance on A with this critic.
        tasks: What to try.
        trials: Trials per task and policy, on the same seeds.
        seeds_of: Which reserved seeds; tune on "tuning", never on "evaluation".
        repetition: Which of the ten independent sets of seeds.
        image_size: Width and height of what the policy sees, px.
        workers: Trials at a time.
        rig: Rig file.
    """
    agents: dict[str, AnyAgent] = {"A": Plain(a), "B": Plain(b)}
    if critic is not None:
        agents |= {"A + Q-selection": QSelection(a, critic), "A + Q-guidance": QGuidance(a, critic)}
    cell = load_rig(rig).with_image_size(*image_size)
    chosen = {task: seeds(seeds_of, task, trials, repetition) for task in tasks}
    out = out or Path("runs/compare") / f"{a.name}-{b.name}"
    show_study(twin_study(out, cell, agents, chosen, workers=workers, title=f"{b} against {a}"))


def critic(
    policy: Annotated[Path, tyro.conf.arg(metavar="POLICY")],
    critic: Annotated[Path, tyro.conf.arg(metavar="CRITIC")],
    /,
    tasks: tuple[TaskName, ...] = ("pick_peach", "stack_bowls"),
    trials: int = 50,
    repetition: int = 0,
    image_size: tuple[int, int] = (128, 96),
    workers: int = 2,
    rig: Path = DEFAULT_RIG,
) -> None:
    """Ask a critic's last gate: does Q-guidance with it beat its policy in paired trials on tuning seeds?

    Args:
        policy: The checkpoint that the critic judges, or the folder of the stage that made it.
        critic: Folder of the trained critic; the verdict is added to its gates.
        tasks: What to try.
        trials: Trials per task, each with and without the critic.
        repetition: Which of the ten independent sets of seeds.
        image_size: Width and height of what the policy sees, px.
        workers: Trials at a time.
        rig: Rig file.
    """
    cell = load_rig(rig).with_image_size(*image_size)
    gates = try_critic(
        cell, policy, critic, tasks, trials=trials, repetition=repetition, workers=workers, console=Console()
    )
    Console().print(str(gates))


def report(folder: Annotated[Path, tyro.conf.arg(metavar="FOLDER")], /) -> None:
    """Write the report of a study again, finished or not.

    Args:
        folder: Folder of the study.
    """
    show_study(report_study(folder))


def show_study(study: Study) -> None:
    """Table, conclusions and the path of the report."""
    console = Console()
    console.print(rich_table(study.comparison))
    for sentence in conclusions(study.comparison):
        console.print(sentence)
    console.print(f"report: {study.report}", soft_wrap=True)


COMMANDS = {"compare": compare, "critic": critic, "report": report}
