"""What a task is: a randomised scene from a seed, and a judge that gives reasons."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..control import EpisodeEnd
from ..types import CameraSpec, Floats, Observation
from .objects import Ball, Block, Bowl, Can
from .scene import Appearance
from .world import REST_SPEED, World

Thing = Ball | Block | Can | Bowl

LIFTED_M = 0.04  # an object this far above the table is lifted
REACH_X, REACH_Y = (0.22, 0.75), (-0.45, 0.45)  # m: outside, the arm cannot get at an object
UPRIGHT = 0.9  # cosine: a target tipped further has failed the task

MILESTONES = ("touched", "grasped", "lifted", "over the target", "placed")


@dataclass(frozen=True, eq=False)
class Layout:
    """One randomised start of an episode."""

    things: tuple[Thing, ...]
    poses: dict[str, Floats]  # name -> [x y z qw qx qy qz]
    movable: Thing  # what to pick up
    target: Bowl  # what to put it in or on
    instruction: str
    home_q: Floats  # (dof,) rad
    appearance: Appearance = field(default_factory=Appearance)
    cameras: tuple[CameraSpec, ...] | None = None  # replaces the rig's, for jittered pretraining views

    @property
    def model_key(self) -> tuple[object, ...]:
        """Layouts with the same key share a compiled model."""
        return (self.things, self.appearance, self.cameras)  # cameras compare by identity


class Task(Protocol):
    name: str

    def layout(self, rng: np.random.Generator, home_q: Floats) -> Layout:
        """Draw a start."""
        ...


@dataclass(frozen=True)
class Check:
    """One part of a judgement."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class TaskStatus:
    success: bool
    failure: str | None  # why it can no longer succeed
    checks: tuple[Check, ...]

    @property
    def reasons(self) -> str:
        """What is missing for success, readable."""
        return "; ".join(f"{c.name}: {c.detail}" for c in self.checks if not c.passed)


class Judge:
    """Watches one episode of 'put the movable thing into the target' and remembers the milestones reached."""

    def __init__(self, world: World, layout: Layout) -> None:
        self._world, self._layout = world, layout
        self.milestone = 0  # of len(MILESTONES), never falls
        self.status = TaskStatus(False, None, ())

    def __call__(self, obs: Observation) -> EpisodeEnd | None:
        """Monitor of the control loop: ends the episode on success or when success is out of reach."""
        self.status = self._judge()
        self._update_milestone()
        if self.status.success:
            return EpisodeEnd("success", terminated=True, success=True)
        if self.status.failure is not None:
            return EpisodeEnd(self.status.failure, terminated=True, success=False)
        return None

    def _judge(self) -> TaskStatus:
        world, thing, target = self._world, self._layout.movable, self._layout.target
        offset = world.position(thing.name) - world.position(target.name)
        distance = float(np.hypot(offset[0], offset[1]))
        upright = world.uprightness(target.name)
        speed = world.speed(thing.name)
        allowed = inside_radius(thing, target)
        checks = (
            Check("inside", distance < allowed, f"{distance * 100:.1f} cm off centre, allowed {allowed * 100:.1f}"),
            Check(
                "depth", -0.005 < offset[2] < target.height * 0.75, f"{offset[2] * 100:.1f} cm above the target's foot"
            ),
            Check("upright", upright > UPRIGHT and self._stands(), f"target's cosine to vertical {upright:.2f}"),
            Check("resting", speed < REST_SPEED, f"moving at {speed:.2f} m/s"),
            Check("released", not world.touched_by_hand(thing.name), "the hand still touches it"),
        )
        return TaskStatus(all(c.passed for c in checks), self._failure(upright), checks)

    def _stands(self) -> bool:
        """A nested vessel must stand in its target, not lean on its rim."""
        thing = self._layout.movable
        return not isinstance(thing, Bowl) or self._world.uprightness(thing.name) > UPRIGHT

    def _failure(self, target_uprightness: float) -> str | None:
        if target_uprightness < UPRIGHT * 0.8:
            return "target tipped over"
        for thing in (self._layout.movable, self._layout.target):
            x, y, _ = self._world.position(thing.name)
            if not (REACH_X[0] < x < REACH_X[1] and REACH_Y[0] < y < REACH_Y[1]):
                return f"{thing.name} out of reach"
        return None

    def _update_milestone(self) -> None:
        world, name = self._world, self._layout.movable.name
        position, target = world.position(name), world.position(self._layout.target.name)
        held = world.held(name)
        lifted = held and position[2] > LIFTED_M
        over = lifted and np.hypot(*(position - target)[:2]) < self._layout.target.rim_radius
        reached = (world.touched_by_hand(name), held, lifted, over, self.status.success)
        self.milestone = max([self.milestone, *(i + 1 for i, yes in enumerate(reached) if yes)])


def inside_radius(thing: Thing, target: Bowl) -> float:
    """How far off centre the thing may lie and still count as in the target, m."""
    if isinstance(thing, Bowl):
        return 0.02  # nested vessels centre themselves
    return target.rim_radius


def upright_pose(x: float, y: float, yaw: float = 0.0) -> Floats:
    """[x y z qw qx qy qz] of a thing standing on the table."""
    return np.array([x, y, 0.0005, np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])


def jittered_home(rng: np.random.Generator, home_q: Floats, scale_rad: float = 0.03) -> Floats:
    return home_q + scale_rad * rng.standard_normal(len(home_q))


def place_apart(
    rng: np.random.Generator,
    radii: tuple[float, ...],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    clearance: float,
) -> list[tuple[float, float]]:
    """Centres of discs of the given radii, uniformly in the box, no two closer than `clearance` rim to rim."""
    while True:
        centres = [(float(rng.uniform(*x_range)), float(rng.uniform(*y_range))) for _ in radii]
        if all(
            np.hypot(a[0] - b[0], a[1] - b[1]) > ra + rb + clearance
            for i, (a, ra) in enumerate(zip(centres, radii, strict=True))
            for b, rb in list(zip(centres, radii, strict=True))[:i]
        ):
            return centres
