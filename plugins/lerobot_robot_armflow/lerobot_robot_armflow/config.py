"""What `--robot.*` can say of an armflow rig."""

from dataclasses import dataclass
from pathlib import Path

from armflow.robot.rig import DEFAULT_RIG, Rig, load_rig
from lerobot.robots import RobotConfig


@RobotConfig.register_subclass("armflow")
@dataclass(kw_only=True)
class ArmflowRobotConfig(RobotConfig):
    """A rig file, and for the twin its scene."""

    rig: Path = DEFAULT_RIG
    """Rig file."""
    image_size: tuple[int, int] | None = None
    """Width and height of the images, px; None: as in the rig file."""
    depth: bool = False
    """Deliver `<camera>_depth`, mm, too. LeRobot's depth video knows no "no return": 0 becomes its least depth."""
    twin: bool = False
    """Drive the twin of a rig that describes hardware."""
    task: str = "pick_peach"
    """Scene of the twin."""
    seed: int = 0
    """Which of its random starts."""

    def load_rig(self) -> Rig:
        """Raises ConfigError, naming what is wrong with the file."""
        rig = load_rig(self.rig)
        return rig if self.image_size is None else rig.with_image_size(*self.image_size)
