"""An armflow rig behind LeRobot's interface of a robot."""

import logging
import math
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
from armflow.robot.control import EpisodeEnd, observe
from armflow.robot.errors import ArmflowError, ConfigError
from armflow.robot.rig import ARMS
from armflow.robot.shared import SharedArm, share
from armflow.robot.station import open_station
from armflow.robot.types import ArmCommand, Observation
from lerobot.robots import Robot
from lerobot.utils.errors import DeviceAlreadyConnectedError, DeviceNotConnectedError

from .config import ArmflowRobotConfig

MAX_FRAME_AGE_S = 0.2  # as in armflow's own loop
PAUSE_S = 0.5  # s without an action, as while an episode is saved: then the arm may be somewhere else
EARLY = 0.9

log = logging.getLogger(__name__)


class ArmflowRobot(Robot):
    """Joint positions (rad), gripper opening (0..1) and images out, absolute joint targets in.

    Every action passes the rig's safety filter. What it refuses stops the arm and raises SafetyStop.
    """

    config_class = ArmflowRobotConfig
    name = "armflow"

    def __init__(self, config: ArmflowRobotConfig) -> None:
        super().__init__(config)
        self.config = config
        self._rig = config.load_rig()
        self._names = ARMS[self._rig.arm.model].action_names
        self._stack = ExitStack()
        self._shared: SharedArm | None = None
        self._acted_t: float | None = None  # time of the last action
        # LeRobot does not say how fast its loop is. The filter's limits hold for one command per control period, so of a
        # faster loop only as many are followed: those at the rig's rate, `EARLY` of a period too soon at most, since a
        # loop at that rate is not punctual.
        self._due = 0.0
        self._actions = self._followed = 0
        self._changed = Counter[str]()  # actions, by what the safety filter changed
        self._end: EpisodeEnd | None = None

    @property
    def cameras(self) -> dict[str, tuple[int, int]]:
        """(height, width) of each; LeRobot counts them."""
        return {camera.name: (camera.height, camera.width) for camera in self._rig.cameras}

    @property
    def observation_features(self) -> dict[str, Any]:
        depth = {f"{name}_depth": (*size, 1) for name, size in self.cameras.items() if self.config.depth}
        return self.action_features | {name: (*size, 3) for name, size in self.cameras.items()} | depth

    @property
    def action_features(self) -> dict[str, Any]:
        return dict.fromkeys(self._names, float)

    @property
    def is_connected(self) -> bool:
        return self._shared is not None

    @property
    def is_calibrated(self) -> bool:
        """Calibrations are in the rig file."""
        return True

    def calibrate(self) -> None: ...

    def configure(self) -> None: ...

    def connect(self, calibrate: bool = True) -> None:
        """Open the rig, or the twin in its scene. Nothing moves. Raises what the devices raise."""
        if self.is_connected:
            raise DeviceAlreadyConnectedError(f"{self} is connected already")
        cfg = self.config
        with ExitStack() as stack:
            station = stack.enter_context(open_station(self._rig, twin=cfg.twin, task=cfg.task, seed=cfg.seed))
            shared = stack.enter_context(share(cfg.rig, station))
            stack.callback(station.arm.hold)
            self._stack = stack.pop_all()
        self._shared, self._acted_t, self._end = shared, None, None
        self._actions, self._followed, self._changed = 0, 0, Counter()
        if station.episode is not None:
            log.info("twin: %s", station.episode.layout.instruction)

    def get_observation(self) -> dict[str, Any]:
        """Raises StaleReading or DeviceFault."""
        station = self._open().station
        # The twin first simulates what it has missed since somebody asked last; its frames are no worse for that.
        max_age_s = MAX_FRAME_AGE_S if station.episode is None else math.inf
        seen = observe(station.arm, station.cameras, station.clock, max_age_s)
        self._judge(seen)
        values: dict[str, Any] = dict(zip(self._names, seen.arm.vector.tolist(), strict=True))
        for name, frame in seen.frames.items():
            values[name] = frame.rgb
            if self.config.depth:
                values[f"{name}_depth"] = frame.depth_mm[..., None]
        return values

    def send_action(self, action: Mapping[str, Any]) -> dict[str, float]:
        """Send what the safety filter lets pass, and return it. On any error the arm holds."""
        shared = self._open()
        try:
            shared.executed = self._filter_and_send(shared, self._command(action))
        except BaseException as error:
            try:
                shared.station.arm.hold()
            except (ArmflowError, OSError) as another:
                error.add_note(f"the arm did not take the hold: {another}")
            raise
        return dict(zip(self._names, shared.executed.vector.tolist(), strict=True))

    def disconnect(self) -> None:
        """Hold, and close everything."""
        shared = self._open()
        changed = ", ".join(f"{n} because of {reason}" for reason, n in self._changed.items())
        log.info(
            "%d actions sent, %d followed, changed by the safety filter: %s",
            self._actions,
            self._followed,
            changed or "none",
        )
        if self._end is None and (episode := shared.station.episode) is not None:
            log.info("twin: not done: %s", episode.judge.status.reasons)
        self._shared = None
        self._stack.close()

    def _open(self) -> SharedArm:
        if self._shared is None:
            raise DeviceNotConnectedError(f"{self} is not connected; call connect() first")
        return self._shared

    def _command(self, action: Mapping[str, Any]) -> ArmCommand:
        if set(action) != set(self._names):
            raise ConfigError(f"an action needs {', '.join(self._names)}; got {', '.join(action) or 'nothing'}")
        return ArmCommand.from_vector(np.array([float(action[name]) for name in self._names]))

    def _filter_and_send(self, shared: SharedArm, requested: ArmCommand) -> ArmCommand:
        station, period = shared.station, 1.0 / self._rig.control_hz
        now = station.clock.now()
        if self._acted_t is None or now - self._acted_t > PAUSE_S:
            station.safety.reset(station.arm.read())
            self._due = now
        self._acted_t = now
        self._actions += 1
        if now < self._due - EARLY * period and shared.executed is not None:
            return shared.executed
        self._due = max(self._due, now - EARLY * period) + period
        self._followed += 1
        filtered = station.safety(requested, station.arm.read(), period)
        self._changed.update(str(flag.name).lower() for flag in filtered.flags)
        return station.arm.command(filtered.command)

    def _judge(self, seen: Observation) -> None:
        """Say once how the twin's scene ended; LeRobot's loops go on until their time is over."""
        episode = self._open().station.episode
        if episode is None or self._end is not None:
            return
        self._end = episode.judge(seen)
        if self._end is not None:
            log.info("twin: %s", self._end.reason)
