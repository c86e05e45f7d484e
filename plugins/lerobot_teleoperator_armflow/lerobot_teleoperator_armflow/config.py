"""What `--teleop.*` can say of an armflow device."""

from dataclasses import dataclass
from pathlib import Path

from armflow.evaluation.collect_commands import DeviceName
from armflow.robot.rig import DEFAULT_RIG
from lerobot.teleoperators import TeleoperatorConfig


@TeleoperatorConfig.register_subclass("armflow")
@dataclass(kw_only=True)
class ArmflowTeleoperatorConfig(TeleoperatorConfig):
    """A device, and the rig that it drives."""

    device: DeviceName = "keyboard"
    """What a person holds; `scripted` does the twin's task by itself."""
    rig: Path = DEFAULT_RIG
    """Rig file of the robot."""
    seed: int = 0
    """Of the scripted operator's small irregularities."""
