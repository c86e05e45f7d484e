"""One cell for the tests of this folder, and a tool that goes where it is told."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from armflow.robot.control import LoopCfg, run_episode
from armflow.robot.fakes import FakeSource
from armflow.robot.geometry import down_facing, pose
from armflow.robot.kinematics import Kinematics
from armflow.robot.rig import Rig
from armflow.robot.twin.cell import Cell, Episode
from armflow.robot.types import ArmCommand, Observation

Waypoint = tuple[Any, float, int]  # tool position (m), gripper opening, control periods to get there
Drive = Callable[[Episode, Sequence[Waypoint]], None]

SPEED_M = 0.03  # the tool moves this far in a control period at most


@pytest.fixture(scope="session")
def cell(rig: Rig) -> Iterator[Cell]:
    with Cell(rig) as shared:
        yield shared


@pytest.fixture(scope="session")
def drive(rig: Rig, cell: Cell) -> Drive:
    """drive(episode, waypoints): through the control loop, tool pointing down, no images."""
    kinematics = Kinematics(rig.arm)

    def _drive(episode: Episode, waypoints: Sequence[Waypoint]) -> None:
        q = episode.arm.read().q
        position = episode.world.tcp()[:3, 3]
        ticks = [(np.array(p), g) for p, g, n in waypoints for _ in range(n)]
        plan = iter(ticks)

        def decide(_: Observation) -> ArmCommand:
            nonlocal q, position
            goal, gripper = next(plan)
            left = goal - position
            position = position + left * min(1.0, SPEED_M / max(float(np.linalg.norm(left)), 1e-9))
            q = kinematics.inverse(pose(position, down_facing(0.0)), q)
            return ArmCommand(q, gripper)

        run_episode(
            arm=episode.arm, cameras={}, source=FakeSource(decide), safety=episode.safety, clock=cell.clock,
            cfg=LoopCfg(fps=rig.control_hz, max_steps=len(ticks)),
        )  # fmt: skip
        cell.clock.sleep_until(cell.clock.now() + 1 / rig.control_hz)
        episode.twin.sync()

    return _drive
