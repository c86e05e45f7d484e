"""A scripted operator for the twin: knows where everything is, but moves the arm only through the teleop seam."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..robot.geometry import down_facing, pose
from ..robot.twin.objects import FOOT_THICKNESS, Ball, Block, Bowl, Can
from ..robot.twin.task import Layout, Thing
from ..robot.twin.world import World
from ..robot.types import ArmState, Floats
from .device import TeleopInput, ToolPose

OPEN, CLOSED = 1.0, 0.0
ARRIVED_M = 0.006  # the reference counts as arrived this close
SETTLED_M = 0.012  # and the measured tool this close
RIM_GRASP_DEPTH_M = 0.014  # how far below a rim the fingertips reach
DROP_HEIGHT_M = 0.008  # released this far above where it will lie
APPROACH_GAIN = 5.0  # 1/s: slows down on the last centimetres
MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class ExpertCfg:
    """A person's pace and untidiness."""

    speed_m_s: float = 0.32
    """Tool speed in free space."""
    slow_m_s: float = 0.12
    """Tool speed next to objects."""
    travel_height_m: float = 0.17
    """Tool height in transit."""
    wander_m: float = 0.006
    """Standard deviation of slow random wandering of the path in free space."""
    tremor_m: float = 0.0
    """The same next to objects: an unsteady hand, that does not wait until it is steady either."""
    grip_ticks: int = 5
    """Control periods spent closing or opening."""
    miss_rate: float = 0.0
    """Chance that the first grasp misses on purpose, to show how one recovers."""


@dataclass(frozen=True)
class _Goal:
    """One leg of the path."""

    position: Floats  # (3,)
    yaw: float
    gripper: float
    speed: float
    wander: bool = False
    dwell: int = 0  # ticks to stay after arriving
    mistake: bool = False  # part of a deliberate miss


def unsteady(tremor_m: float) -> ExpertCfg:
    """An operator whose hand trembles by so much in every direction. Who learns from demonstrations by such a hand learns
    the trembling, too."""
    return ExpertCfg(wander_m=tremor_m, tremor_m=tremor_m)


class ScriptedExpert:
    """TeleopDevice that picks the layout's movable thing and puts it into its target, trying again after a miss."""

    def __init__(
        self, world: World, layout: Layout, rng: np.random.Generator, control_hz: float, cfg: ExpertCfg | None = None
    ) -> None:
        self._world, self._layout, self._rng, self._period = world, layout, rng, 1.0 / control_hz
        self._cfg = cfg or ExpertCfg()
        self._position = world.tcp()[:3, 3]
        self._yaw = 0.0
        self._speed = 0.0
        self._wander = np.zeros(3)
        self._misses = rng.random() < self._cfg.miss_rate
        self._path = self._script()
        self._goal = next(self._path)
        self._dwelt = 0

    def read(self, state: ArmState) -> TeleopInput:
        if self._arrived():
            self._dwelt += 1
            if self._dwelt > self._goal.dwell:
                self._goal, self._dwelt = next(self._path, self._goal), 0
        self._advance()
        noise = self._next_wander() * (self._cfg.wander_m if self._goal.wander else self._cfg.tremor_m)
        target = ToolPose(pose(self._position + noise, down_facing(self._yaw)))
        return TeleopInput(engaged=True, target=target, gripper=self._goal.gripper)

    @property
    def making_mistake(self) -> bool:
        """Whether the current motion is a deliberate miss, not to be imitated."""
        return self._goal.mistake

    def _script(self) -> Iterator[_Goal]:
        """Goals one after the other; each is computed when the previous one is reached, from where things are then."""
        cfg, thing = self._cfg, self._layout.movable
        for attempt in range(MAX_ATTEMPTS):
            miss = self._misses and attempt == 0
            error = self._miss_offset() if miss else np.zeros(3)
            grasp, yaw = self._grasp()
            above = np.array([*(grasp + error)[:2], cfg.travel_height_m * 0.75])
            yield _Goal(above, yaw, OPEN, cfg.speed_m_s, wander=True, mistake=miss)
            grasp, yaw = self._grasp()
            grasp = grasp + error
            yield _Goal(grasp, yaw, OPEN, cfg.slow_m_s * 1.5, mistake=miss)
            yield _Goal(grasp, yaw, CLOSED, cfg.slow_m_s, dwell=cfg.grip_ticks, mistake=miss)
            lifted = np.array([grasp[0], grasp[1], cfg.travel_height_m])
            yield _Goal(lifted, yaw, CLOSED, cfg.speed_m_s)
            if not self._world.held(thing.name):
                continue
            over, release = self._release_points()
            yield _Goal(over, yaw, CLOSED, cfg.speed_m_s, wander=True)
            over, release = self._release_points()
            yield _Goal(over, yaw, CLOSED, cfg.slow_m_s)
            yield _Goal(release, yaw, CLOSED, cfg.slow_m_s * 1.5)
            yield _Goal(release, yaw, OPEN, cfg.slow_m_s, dwell=cfg.grip_ticks)
            yield _Goal(over, yaw, OPEN, cfg.speed_m_s, dwell=3)

    def _grasp(self) -> tuple[Floats, float]:
        """Tool position and yaw for grasping the thing where it is now."""
        thing = self._layout.movable
        return grasp_pose(thing, self._world.position(thing.name), self._world.rotation(thing.name))

    def _miss_offset(self) -> Floats:
        """(3,) m: two to five centimetres sideways and up to one upwards."""
        angle, distance = self._rng.uniform(0, 2 * np.pi), self._rng.uniform(0.02, 0.05)
        return np.array([distance * np.cos(angle), distance * np.sin(angle), self._rng.uniform(0.0, 0.01)])

    def _release_points(self) -> tuple[Floats, Floats]:
        """Tool positions over the target, and where to let go, given how the thing hangs in the gripper."""
        thing, target = self._layout.movable, self._layout.target
        offset = self._world.tcp()[:3, 3] - self._world.position(thing.name)
        centre = self._world.position(target.name)
        release = centre + offset + (0.0, 0.0, FOOT_THICKNESS + DROP_HEIGHT_M)
        return np.array([release[0], release[1], max(self._cfg.travel_height_m, release[2])]), release

    def _arrived(self) -> bool:
        reference = np.linalg.norm(self._goal.position - self._position)
        measured = np.linalg.norm(self._goal.position - self._world.tcp()[:3, 3])
        wide = 3.0 if self._goal.wander else 1.0  # in free space nobody waits for the exact point
        there = reference < ARRIVED_M * wide and measured < SETTLED_M * wide + 2.5 * self._cfg.tremor_m
        return bool(there and abs(self._yaw - self._goal.yaw) < 0.05)

    def _advance(self) -> None:
        """Move the reference towards the goal, accelerating smoothly and slowing down at the end."""
        left = self._goal.position - self._position
        distance = float(np.linalg.norm(left))
        self._speed = min(self._goal.speed, self._speed + 1.2 * self._period, APPROACH_GAIN * distance + 0.01)
        step = min(self._speed * self._period, distance)
        if distance > 0:
            self._position = self._position + left / distance * step
        turn = 1.5 * self._period
        self._yaw += float(np.clip(self._goal.yaw - self._yaw, -turn, turn))

    def _next_wander(self) -> Floats:
        """Ornstein-Uhlenbeck noise of unit variance with a correlation time of half a second."""
        keep = np.exp(-self._period / 0.5)
        kick = np.sqrt(1 - keep**2)
        self._wander = keep * self._wander + kick * self._rng.standard_normal(3)
        return self._wander


def grasp_pose(thing: Thing, position: Floats, rotation: Floats) -> tuple[Floats, float]:
    """Tool position (3,) and yaw that grasp a standing thing from above; fingers open along the base's y at yaw 0."""
    match thing:
        case Ball(radius=radius):
            return position + (0.0, 0.0, radius), 0.0
        case Can(height=height):
            return position + (0.0, 0.0, max(height - 0.025, height / 2)), 0.0
        case Block(half=half):
            yaw = float(np.arctan2(rotation[1, 0], rotation[0, 0]))
            yaw = (yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4  # faces repeat every 90 degrees
            return position + (0.0, 0.0, max(2 * half[2] - 0.02, half[2])), yaw
        case Bowl(rim_radius=rim, height=height):
            # The rim on the arm's left: the hand needs no turn, and stays out of the cameras' way.
            return position + (0.0, rim + 0.0025, height - RIM_GRASP_DEPTH_M), 0.0
