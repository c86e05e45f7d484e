"""LeRobot plugin: `--robot.type=armflow`, and the policy type `pi05_mini`. LeRobot imports it by its name."""

from armflow.training.pi05_mini.configuration_pi05_mini import PI05MiniConfig  # registers the policy type

from .config import ArmflowRobotConfig
from .robot import ArmflowRobot

__all__ = ["ArmflowRobot", "ArmflowRobotConfig", "PI05MiniConfig"]
