"""LeRobot plugin: `--teleop.type=armflow`. LeRobot imports it by its name."""

from .config import ArmflowTeleoperatorConfig
from .teleoperator import ArmflowTeleoperator

__all__ = ["ArmflowTeleoperator", "ArmflowTeleoperatorConfig"]
