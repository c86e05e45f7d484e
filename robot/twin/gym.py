"""The evaluation tasks as Gymnasium environments: armflow/PickPeach-v0 and armflow/StackBowls-v0.

Importing this module registers them, and `gymnasium.make` can do that itself:

    env = gymnasium.make("armflow.robot.twin.gym:armflow/PickPeach-v0")
"""

import math
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..control import observe
from ..rig import ARMS, load_rig
from ..types import ArmCommand, SafetyFlag
from .cell import Cell, Episode
from .task import MILESTONES
from .tasks import get_task

IDS = {"armflow/PickPeach-v0": "pick_peach", "armflow/StackBowls-v0": "stack_bowls"}
MAX_EPISODE_STEPS = 150

Obs = dict[str, Any]


def register() -> None:
    """Make the ids known to Gymnasium. Idempotent."""
    for env_id, task in IDS.items():
        if env_id not in gym.registry:
            entry_point, kwargs = f"{__name__}:{TwinEnv.__name__}", {"task": task}
            gym.register(env_id, entry_point=entry_point, kwargs=kwargs, max_episode_steps=MAX_EPISODE_STEPS)


class TwinEnv(gym.Env[Obs, NDArray[np.float32]]):
    """Action: absolute joint targets (rad) and gripper opening, (8,). Reward: 1 on success. Not real time."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Gymnasium's own convention

    def __init__(self, task: str, width: int = 128, height: int = 96, render_mode: str | None = None) -> None:
        rig = load_rig().with_image_size(width, height)
        # Random agents may ask for any first pose and push against any limit for ever; the limits still hold.
        self._rig = replace(rig, safety=replace(rig.safety, start_tolerance_rad=math.inf, blocked_stop_s=math.inf))
        self._task, self.render_mode = get_task(task), render_mode
        self._cell = Cell(self._rig)
        self._episode: Episode | None = None
        spec = ARMS[self._rig.arm.model]
        low, high = np.append(spec.q_min, 0.0), np.append(spec.q_max, 1.0)
        self.action_space = spaces.Box(low.astype(np.float32), high.astype(np.float32))
        cameras: dict[str, spaces.Space[Any]] = {
            c.name: spaces.Dict(
                {
                    "rgb": spaces.Box(0, 255, (c.height, c.width, 3), np.uint8),
                    "depth_mm": spaces.Box(0, 65535, (c.height, c.width), np.uint16),
                }
            )
            for c in self._rig.cameras
        }
        self.observation_space = spaces.Dict(
            {
                "state": spaces.Box(-np.inf, np.inf, (8,), np.float32),
                "velocity": spaces.Box(-np.inf, np.inf, (7,), np.float32),
                "images": spaces.Dict(cameras),
            }
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        super().reset(seed=seed)
        self._episode = self._cell.reset(self._task, int(self.np_random.integers(2**31)))
        self._episode.safety.reset(self._episode.arm.read())
        self._start, self._ticks = self._cell.clock.now(), 0
        return self._observe(), self._info(SafetyFlag.NONE)

    def step(self, action: NDArray[np.float32]) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        episode = self._running()
        period = 1.0 / self._rig.control_hz
        filtered = episode.safety(ArmCommand.from_vector(action), episode.arm.read(), period)
        episode.arm.command(filtered.command)
        self._ticks += 1
        self._cell.clock.sleep_until(self._start + self._ticks * period)
        obs = self._observe()
        end = episode.judge(self._last)
        return obs, float(bool(end and end.success)), bool(end and end.terminated), False, self._info(filtered.flags)

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        """Both cameras side by side."""
        self._running()
        return np.hstack([frame.rgb for frame in self._last.frames.values()])

    def close(self) -> None:
        self._cell.__exit__()

    def _running(self) -> Episode:
        if self._episode is None:
            raise gym.error.ResetNeeded("call reset() first")
        return self._episode

    def _observe(self) -> Obs:
        episode = self._running()
        self._last = observe(episode.arm, episode.cameras, self._cell.clock, max_frame_age_s=1.0)
        images = {n: {"rgb": f.rgb, "depth_mm": f.depth_mm} for n, f in self._last.frames.items()}
        arm = self._last.arm
        return {"state": arm.vector, "velocity": arm.dq.astype(np.float32), "images": images}

    def _info(self, flags: SafetyFlag) -> dict[str, Any]:
        judge = self._running().judge
        return {
            "instruction": self._running().layout.instruction,
            "success": judge.status.success,
            "missing": judge.status.reasons,
            "milestone": judge.milestone,
            "milestones": len(MILESTONES),
            "safety_flags": int(flags),
        }


register()
