"""`armflow rig ...`."""

import sys
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.prompt import Confirm

from .clock import MonotonicClock
from .errors import ConfigError, DeviceFault, OperatorNeeded
from .findings import show
from .rig import DEFAULT_RIG, load_rig
from .rig_check import check_rig
from .station import go_home, make_arm, open_station

RigFile = Annotated[Path, tyro.conf.arg(metavar="RIG")]
Template = Literal["fr3_realsense", "fr3_table", "xarm7_realsense", "xarm7_table"]
TEMPLATES = {path.stem: path for path in sorted(DEFAULT_RIG.parent.glob("*.toml"))}


def new(out: RigFile, /, template: Template = "fr3_realsense") -> None:
    """Write a rig file to start from, with every setting that one usually changes and what it means.

    Args:
        out: Where to; an existing file is not touched.
        template: fr3_realsense is an FR3 with two RealSense cameras, fr3_table the twin that everything runs on by default;
            xarm7_realsense and xarm7_table are the same with an xArm7.
    """
    if out.exists():
        raise ConfigError(f"{out} exists; choose another name or move it away")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(TEMPLATES[template].read_text(encoding="utf-8"), encoding="utf-8")
    Console().print(f"wrote {out}; fill it in, then: armflow rig check {out}")


def check(rig: RigFile = DEFAULT_RIG, /) -> None:
    """Check a rig file: keys, types and ranges, then whether it makes sense as a whole. Opens no device.

    Args:
        rig: Rig file; without one the twin's that armflow ships.
    """
    loaded = load_rig(rig)
    Console().print(f"{loaded.name}, {'hardware' if loaded.is_hardware else 'twin only'}, hash {loaded.hash}")
    if not show(check_rig(loaded, date.today())):  # noqa: DTZ011 the day where the rig stands
        sys.exit(1)


def home(rig: RigFile = DEFAULT_RIG, /, twin: bool = False) -> None:
    """Drive the arm to the rig's home pose, slowly and in a straight line of its joints. Ctrl-C: it holds.

    Args:
        rig: Rig file.
        twin: A dry run, whatever the rig describes.
    """
    console = Console()
    with open_station(load_rig(rig), twin=twin) as station, console.status("driving home; Ctrl-C holds"):
        go_home(station)
    console.print("home")


def recover(rig: RigFile, /) -> None:
    """Clear the errors of the rig's arm after a fault, once a person has looked at it. Nothing clears by itself.

    Args:
        rig: Rig file.
    """
    console = Console()
    arm = make_arm(load_rig(rig), MonotonicClock())
    try:
        console.print(f"nothing to recover: {arm.look()}")
    except (DeviceFault, OperatorNeeded) as fault:
        console.print(escape(str(fault)))
        if not Confirm.ask("Is the cell clear, and have you seen why the arm stopped?", console=console, default=False):
            raise OperatorNeeded("look at the arm and at what it touches, then run this again") from fault
        arm.recover()
        console.print(f"recovered: {arm.look()}")


COMMANDS = {"new": new, "check": check, "home": home, "recover": recover}
