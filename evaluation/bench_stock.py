"""Stock LeRobot's `lerobot-record` on the shared cell: its own loop, its own dataset writer, our robot and teleoperator."""

import time
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np
from lerobot.configs.dataset import DatasetRecordConfig
from lerobot.datasets import LeRobotDataset
from lerobot.lerobot_types import RobotAction, RobotObservation
from lerobot.robots import Robot, RobotConfig
from lerobot.scripts import lerobot_record
from lerobot.teleoperators import Teleoperator, TeleoperatorConfig

from ..robot.types import ArmCommand
from .bench_cell import CellProcess
from .bench_recorders import MAX_AGE_S, TASK, Job, Marks, cpu_s, folder_bytes, say, sway


@RobotConfig.register_subclass("armflow_bench_cell")
@dataclass(kw_only=True)
class CellRobotConfig(RobotConfig):
    pass


@TeleoperatorConfig.register_subclass("armflow_bench_sway")
@dataclass(kw_only=True)
class SwayConfig(TeleoperatorConfig):
    pass


class CellRobot(Robot):
    """The cell as LeRobot sees a robot: joint positions, and colour and depth of both cameras."""

    config_class = CellRobotConfig
    name = "armflow_bench_cell"

    def __init__(self, cell: CellProcess) -> None:
        super().__init__(CellRobotConfig(id="bench"))
        self._cell, self._connected = cell, False
        self.cameras = cell.cameras  # LeRobot counts them, and starts four image writers for each

    @property
    def observation_features(self) -> dict[str, Any]:
        features: dict[str, Any] = dict.fromkeys(self._cell.arm.spec.action_names, float)
        for name, camera in self.cameras.items():
            size = (camera.spec.height, camera.spec.width)
            features |= {name: (*size, 3), f"{name}_depth": (*size, 1)}
        return features

    @property
    def action_features(self) -> dict[str, Any]:
        return dict.fromkeys(self._cell.arm.spec.action_names, float)

    @property
    def is_connected(self) -> bool:
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        return True

    def connect(self, calibrate: bool = True) -> None:
        self._connected = True

    def calibrate(self) -> None:
        pass

    def configure(self) -> None:
        pass

    def get_observation(self) -> RobotObservation:
        values = self._cell.arm.read().vector
        obs: dict[str, Any] = dict(zip(self._cell.arm.spec.action_names, map(float, values), strict=True))
        for name, camera in self.cameras.items():
            frame = camera.latest(max_age_s=MAX_AGE_S)
            obs |= {name: frame.rgb, f"{name}_depth": frame.depth_mm[..., None]}
        return obs

    def send_action(self, action: RobotAction) -> RobotAction:
        vector = np.array([action[name] for name in self._cell.arm.spec.action_names])
        self._cell.arm.command(ArmCommand.from_vector(vector))
        return action

    def disconnect(self) -> None:
        self._connected = False


class SwayTeleop(Teleoperator):
    """An operator who moves one joint from side to side."""

    config_class = SwayConfig
    name = "armflow_bench_sway"

    def __init__(self, cell: CellProcess) -> None:
        super().__init__(SwayConfig(id="bench"))
        self._names, self._home = cell.arm.spec.action_names, np.array(cell.rig.arm.home_q)
        self._connected = False

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

    def connect(self, calibrate: bool = True) -> None:
        self._connected = True

    def calibrate(self) -> None:
        pass

    def configure(self) -> None:
        pass

    def get_action(self) -> RobotAction:
        vector = np.append(sway(time.monotonic(), self._home), 1.0)
        return dict(zip(self._names, map(float, vector), strict=True))

    def send_feedback(self, feedback: dict[str, Any]) -> None:
        pass

    def disconnect(self) -> None:
        self._connected = False


def record_stock(job: Job, cell: CellProcess) -> Marks:
    """`lerobot-record` with its defaults; nothing of it is replaced, `add_frame` and `save_episode` are watched."""
    # The two factories only know robots that come as installed plugins.
    lerobot_record.make_robot_from_config = lambda config: CellRobot(cell)
    lerobot_record.make_teleoperator_from_config = lambda config: SwayTeleop(cell)
    marks = Marks(cell, cpu_s(cell), [], [], [])
    _watch(marks, job.episodes)
    lerobot_record.record(
        lerobot_record.RecordConfig(
            robot=CellRobotConfig(id="bench"),
            teleop=SwayConfig(id="bench"),
            dataset=DatasetRecordConfig(
                repo_id="local/bench",
                root=job.out / "dataset",
                single_task=TASK,
                fps=round(cell.rig.control_hz),
                episode_time_s=job.episode_s,
                reset_time_s=0,
                num_episodes=job.episodes,
                push_to_hub=False,
                no_stamp=True,
                streaming_encoding=job.who == "lerobot-streaming",
                encoder_threads=2 if job.who == "lerobot-streaming" else None,  # as its documentation advises
            ),
            play_sounds=False,
        )
    )
    return marks


def _watch(marks: Marks, episodes: int) -> None:
    add_frame, save_episode = LeRobotDataset.add_frame, LeRobotDataset.save_episode
    count = 0

    @wraps(add_frame)
    def watched_add(self: LeRobotDataset, *args: Any, **kwargs: Any) -> None:
        nonlocal count
        add_frame(self, *args, **kwargs)
        count += 1
        if count % 30 == 0:
            say(stage="recording", done=count)

    @wraps(save_episode)
    def watched_save(self: LeRobotDataset, *args: Any, **kwargs: Any) -> None:
        reads = marks.cell.arm.read_times
        marks.reads.append((marks.reads[-1][1] if marks.reads else 0, len(reads)))
        marks.looks.append((marks.looks[-1][1] if marks.looks else 0, marks.cell.looks))
        marks.ended = time.monotonic()
        marks.spool_bytes += folder_bytes(self.root / "images")
        say(stage="committing", done=0)
        if len(marks.reads) == episodes:
            marks.cell.end()  # rendering would only slow down what comes
        save_episode(self, *args, **kwargs)
        if len(marks.reads) < episodes:
            marks.waits_s.append(time.monotonic() - marks.ended)

    LeRobotDataset.add_frame, LeRobotDataset.save_episode = watched_add, watched_save
