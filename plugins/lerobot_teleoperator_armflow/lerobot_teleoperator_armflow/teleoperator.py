"""armflow's teleoperation devices behind LeRobot's interface of a teleoperator."""

import logging
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
from armflow.evaluation.collect_commands import HAND_DEVICES
from armflow.robot.errors import ConfigError
from armflow.robot.kinematics import Kinematics
from armflow.robot.rig import ARMS, load_rig
from armflow.robot.shared import SharedArm, shared_arm
from armflow.robot.station import Station
from armflow.robot.types import ArmCommand, Observation
from armflow.teleop.device import HandDevice, TeleopDevice
from armflow.teleop.expert import ScriptedExpert
from armflow.teleop.source import TeleopSource
from lerobot.teleoperators import Teleoperator
from lerobot.utils.errors import DeviceAlreadyConnectedError, DeviceNotConnectedError

from .config import ArmflowTeleoperatorConfig

PAUSE_S = 0.5  # s in which nobody asked: then the arm may be somewhere else, and the device starts from there

log = logging.getLogger(__name__)


class ArmflowTeleoperator(Teleoperator):
    """Absolute joint targets (rad) and gripper opening (0..1), from what a device wishes for.

    The robot has to be an armflow robot of the same rig file in the same process: wishes start from where its arm is.
    """

    config_class = ArmflowTeleoperatorConfig
    name = "armflow"

    def __init__(self, config: ArmflowTeleoperatorConfig) -> None:
        super().__init__(config)
        self.config = config
        self._rig = load_rig(config.rig)
        self._names = ARMS[self._rig.arm.model].action_names
        self._kinematics = Kinematics(self._rig.arm)
        self._stack = ExitStack()
        self._connected = False
        self._hand: HandDevice | None = None
        self._expert: tuple[Station, ScriptedExpert] | None = None  # it knows the scene of that station
        self._source: TeleopSource | None = None
        self._asked_t = self._due_t = 0.0
        self._action: ArmCommand | None = None

    @property
    def action_features(self) -> dict[str, Any]:
        return dict.fromkeys(self._names, float)

    @property
    def feedback_features(self) -> dict[str, Any]:
        return {}

    @property
    def is_connected(self) -> bool:
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        return True

    def calibrate(self) -> None: ...

    def configure(self) -> None: ...

    def connect(self, calibrate: bool = True) -> None:
        """Open the device. Raises DeviceNotFound if it is not there."""
        if self.is_connected:
            raise DeviceAlreadyConnectedError(f"{self} is connected already")
        if self.config.device != "scripted":
            hand = HAND_DEVICES[self.config.device](self._rig.control_hz)
            self._hand = self._stack.enter_context(hand)
            log.info("%s: %s", hand.name, hand.usage)
        self._connected, self._source = True, None

    def get_action(self) -> dict[str, float]:
        """The newest target. The device is asked at the rig's rate, however fast LeRobot's loop is."""
        if not self.is_connected:
            raise DeviceNotConnectedError(f"{self} is not connected; call connect() first")
        arm = shared_arm(self.config.rig)
        now, period = arm.station.clock.now(), 1.0 / self._rig.control_hz
        state = arm.station.arm.read()
        if arm.executed is not None:
            # The fingers around a thing are open as wide as it is; a target like that would let it go.
            state = replace(state, gripper=arm.executed.gripper)
        if self._source is None or self._action is None or now - self._asked_t > PAUSE_S:
            self._source, self._due_t = self._start(arm, state.gripper), now - period / 2
            self._action = ArmCommand(state.q, state.gripper)
        self._asked_t = now
        if now >= self._due_t:
            # Half a period of patience: a loop at the rig's own rate, always a little early or late, skips no tick.
            self._due_t = max(self._due_t, now - period / 2) + period
            decision = self._source.next(Observation(now, state, {}))
            if decision is not None:
                self._action = decision.command
            elif self._source.event is not None:
                log.info("%s: LeRobot ends episodes by its own keys", self._source.event.name.lower())
        return dict(zip(self._names, self._action.vector.tolist(), strict=True))

    def send_feedback(self, feedback: dict[str, Any]) -> None:
        """These devices cannot feel anything."""

    def disconnect(self) -> None:
        if not self.is_connected:
            raise DeviceNotConnectedError(f"{self} is not connected")
        self._connected, self._hand = False, None
        self._stack.close()

    def _start(self, arm: SharedArm, gripper: float) -> TeleopSource:
        """From where the arm is now, so that it does not jump."""
        if self._hand is not None:
            self._hand.start_episode(gripper)
        return TeleopSource(self._hand or self._scripted(arm.station), self._kinematics, self._rig.control_hz)

    def _scripted(self, station: Station) -> TeleopDevice:
        """One operator per scene: after a pause it goes on with what it was doing."""
        if station.episode is None:
            raise ConfigError(f"the scripted operator knows the twin only, rig {station.rig.name} is hardware")
        if self._expert is None or self._expert[0] is not station:
            rng = np.random.default_rng([self.config.seed, 1])
            episode = station.episode
            expert = ScriptedExpert(episode.world, episode.layout, rng, self._rig.control_hz)
            self._expert = station, expert
        return self._expert[1]
