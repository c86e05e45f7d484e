"""A LeRobot plugin as anybody may write one: seven joints in percent of their range, no velocity, and its bus raises."""

import threading
from dataclasses import dataclass
from typing import Any

from lerobot.robots import Robot, RobotConfig

JOINTS = tuple("abcdefg")


@RobotConfig.register_subclass("seven")
@dataclass(kw_only=True)
class SevenConfig(RobotConfig):
    port: str = ""
    disable_torque_on_disconnect: bool = True
    answer: int = 0


class Seven(Robot):
    config_class = SevenConfig
    name = "seven"

    def __init__(self, config: SevenConfig) -> None:
        super().__init__(config)
        self.config = config
        self.values = dict.fromkeys((*JOINTS, "claw"), 50.0)
        self.fails: Exception | None = None
        self.answering = threading.Event()  # cleared: get_observation waits for ever
        self.answering.set()
        self._connected = False

    @property
    def observation_features(self) -> dict[str, Any]:
        return {f"{name}.pos": float for name in self.values}

    @property
    def action_features(self) -> dict[str, Any]:
        return self.observation_features

    @property
    def is_connected(self) -> bool:
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        return True

    def connect(self, calibrate: bool = True) -> None:
        self._connected = True

    def calibrate(self) -> None: ...

    def configure(self) -> None: ...

    def get_observation(self) -> dict[str, Any]:
        self.answering.wait()
        if self.fails is not None:
            raise self.fails
        return {f"{name}.pos": value for name, value in self.values.items()}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        if self.fails is not None:
            raise self.fails
        for key, value in action.items():
            self.values[key.removesuffix(".pos")] = value
        return action

    def disconnect(self) -> None:
        self._connected = False
