"""`armflow doctor ...`."""

import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from .doctor import examine
from .findings import show
from .rig import DEFAULT_RIG, load_rig

RigFile = Annotated[Path, tyro.conf.arg(metavar="RIG")]


def hardware(rig: RigFile = DEFAULT_RIG, /, data: Path = Path("runs"), seconds: float = 3.0) -> None:
    """Probe the computer and every device of a rig: SDKs, arm, cameras, USB, clocks, disk, real-time priority.

    Nothing moves: the arm is asked for its state, cameras stream for a moment. Exit status 1 if something is broken.

    Args:
        rig: Rig file.
        data: Folder that recordings will go to; its disk is measured.
        seconds: How long cameras and clock are watched, s each.
    """
    console = Console()
    with console.status("looking") as status:
        found = list(examine(load_rig(rig), data, seconds, tell=lambda what: status.update(f"looking at {what}")))
    if not show(found, console):
        sys.exit(1)


COMMANDS = {"hardware": hardware}
