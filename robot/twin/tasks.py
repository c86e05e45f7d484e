"""The two evaluation tasks. Pretraining draws its own, different things: see `pretrain_tasks`."""

import numpy as np

from ..errors import ConfigError
from ..types import Floats
from .objects import Ball, Bowl
from .task import Layout, Task, jittered_home, place_apart, upright_pose

X_RANGE, Y_RANGE = (0.38, 0.58), (-0.20, 0.20)  # m, where things stand at the start
CLEARANCE = 0.05  # m between rims: room for the hand

PEACH = Ball("peach", radius=0.031, rgba=(0.96, 0.60, 0.42, 1.0), stem=True)
WHITE_BOWL = Bowl("bowl", rim_radius=0.078, base_radius=0.050, height=0.045, rgba=(0.88, 0.88, 0.85, 1.0))
PLATE = Bowl("plate", rim_radius=0.095, base_radius=0.075, height=0.018, rgba=(0.45, 0.62, 0.78, 1.0))
SMALL_BOWL = Bowl(
    "small_bowl", rim_radius=0.052, base_radius=0.038, height=0.048, rgba=(0.30, 0.55, 0.35, 1.0), mass=0.1
)
LARGE_BOWL = Bowl(
    "large_bowl", rim_radius=0.080, base_radius=0.052, height=0.050, rgba=(0.55, 0.30, 0.55, 1.0), mass=0.3
)


class PickPeach:
    """Put the peach into the bowl, or onto the plate; which of the two stands there is drawn."""

    name = "pick_peach"

    def layout(self, rng: np.random.Generator, home_q: Floats) -> Layout:
        target = WHITE_BOWL if rng.random() < 0.5 else PLATE
        peach_xy, target_xy = place_apart(rng, (PEACH.radius, target.rim_radius), X_RANGE, Y_RANGE, CLEARANCE)
        poses = {
            PEACH.name: upright_pose(*peach_xy, rng.uniform(-np.pi, np.pi)),
            target.name: upright_pose(*target_xy, rng.uniform(-np.pi, np.pi)),
        }
        instruction = "put the peach in the bowl" if target is WHITE_BOWL else "put the peach on the plate"
        return Layout((PEACH, target), poses, PEACH, target, instruction, jittered_home(rng, home_q))


class StackBowls:
    """Put the small bowl into the large bowl."""

    name = "stack_bowls"

    def layout(self, rng: np.random.Generator, home_q: Floats) -> Layout:
        radii = (SMALL_BOWL.rim_radius, LARGE_BOWL.rim_radius)
        small_xy, large_xy = place_apart(rng, radii, X_RANGE, Y_RANGE, CLEARANCE)
        poses = {
            SMALL_BOWL.name: upright_pose(*small_xy, rng.uniform(-np.pi, np.pi)),
            LARGE_BOWL.name: upright_pose(*large_xy, rng.uniform(-np.pi, np.pi)),
        }
        instruction = "stack the green bowl in the purple bowl"
        return Layout((SMALL_BOWL, LARGE_BOWL), poses, SMALL_BOWL, LARGE_BOWL, instruction, jittered_home(rng, home_q))


TASKS: dict[str, Task] = {task.name: task for task in (PickPeach(), StackBowls())}


def get_task(name: str) -> Task:
    """Raises ConfigError listing the tasks there are."""
    if name not in TASKS:
        raise ConfigError(f"there is no task '{name}'; tasks: {', '.join(TASKS)}")
    return TASKS[name]
