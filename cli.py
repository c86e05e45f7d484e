"""The `armflow` command: find the group, parse, run. Groups are imported when they are used, so help comes at once and a
robot computer never imports torch models."""

import importlib
import sys
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .robot.errors import ArmflowError

GROUPS = {
    "demo": ("evaluation.demo", "the whole loop in the twin: demonstrations to a better policy, with a report"),
    "rig": ("robot.rig_commands", "describe your cell in a rig file, and check it"),
    "doctor": ("robot.doctor_commands", "probe devices and computer, and say what to do about each finding"),
    "twin": ("robot.twin.commands", "look at the simulated cell"),
    "collect": ("evaluation.collect_commands", "record demonstrations and rollouts as LeRobot datasets"),
    "data": ("datasets.commands", "look at, check, repair, merge, import and export recorded data"),
    "pretrain": ("evaluation.pretrain_commands", "train pi05-mini from scratch on scripted multi-task data"),
    "train": ("training.commands", "fine-tune: sft, rlt, critic, qvgm"),
    "eval": ("evaluation.commands", "blinded, paired comparisons of policies"),
    "bench": ("evaluation.benchmarks", "measure speed as ratios"),
}


def main() -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        _overview()
        return
    if arguments[0] == "--version":
        from . import __version__

        print(__version__)  # noqa: T201
        return
    group, rest = arguments[0], arguments[1:]
    if group not in GROUPS:
        _fail(f"there is no command '{group}'; commands: {', '.join(GROUPS)}")
    module = importlib.import_module(f".{GROUPS[group][0]}", __package__)
    try:
        _run(module.COMMANDS, group, rest)
    except ArmflowError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to go on from here")


def _run(commands: Any, group: str, arguments: list[str]) -> None:
    """One function, or a dict of them by subcommand."""
    import tyro

    if callable(commands):
        tyro.cli(commands, prog=f"armflow {group}", args=arguments)
    else:
        tyro.extras.subcommand_cli_from_dict(commands, prog=f"armflow {group}", args=arguments)


def _overview() -> None:
    table = Table(show_header=False, box=None, padding=(0, 2))
    for name, (_, meaning) in GROUPS.items():
        table.add_row(f"[bold]armflow {name}[/bold]", meaning)
    console = Console()
    console.print("armflow: collect real-robot data and improve flow-matching VLA policies from their own experience\n")
    console.print(table)
    console.print("\n`armflow COMMAND --help` explains a command.")


def _fail(message: str) -> NoReturn:
    Console(stderr=True).print(f"[bold red]armflow:[/bold red] {escape(message)}")
    sys.exit(1)
