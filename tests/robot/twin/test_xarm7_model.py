"""The twin's xArm7 is the one of UFACTORY's manual, and it can do what the tasks ask for."""

from collections.abc import Iterator
from dataclasses import replace

import mujoco
import numpy as np
import pytest
from armflow.robot import xarm7
from armflow.robot.clock import SimClock
from armflow.robot.collision import Surroundings
from armflow.robot.control import Step
from armflow.robot.kinematics import Kinematics
from armflow.robot.rig import DEFAULT_RIG, Rig, load_rig
from armflow.robot.safety_cfg import SafetyCfg
from armflow.robot.twin.cell import Cell, Episode
from armflow.robot.twin.scene import build_cell
from armflow.robot.twin.sim import Twin
from armflow.robot.twin.tasks import get_task
from armflow.robot.types import SafetyFlag
from armflow.teleop.collect import Scripted

# User manual, modified DH: d of the joint, a and alpha of the joint before; mm and degrees.
#        d      a    alpha
DH = (
    (267.0, 0.0, 0),
    (0.0, 0.0, -90),
    (293.0, 0.0, 90),
    (0.0, 52.5, 90),
    (342.5, 77.5, 90),
    (0.0, 0.0, 90),
    (97.0, 76.0, -90),
)
GRIPPER_MM = 172.0  # from the flange to the tool centre point
LINKS_KG = (2.382, 1.869, 1.6383, 1.7269, 1.3203, 1.325, 0.17)  # of `xarm_description`
GRIPPER_KG = 0.54156 + 2 * (0.033618 + 0.048304 + 0.0230126)
TORQUES_NM = (50, 50, 30, 30, 30, 20, 20)


def about_z(angle: float, along: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, along], [0, 0, 0, 1.0]])


def about_x(angle: float, along: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0, along], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1.0]])


def published_pose(q: np.ndarray) -> np.ndarray:
    """(4, 4) of the tool centre point, m."""
    X = np.eye(4)
    for (d, a, alpha), theta in zip(DH, q, strict=True):
        X = X @ about_x(np.radians(alpha), a / 1000) @ about_z(theta, d / 1000)
    return X @ about_z(0.0, GRIPPER_MM / 1000)


class Carried:
    """StepSink that notes how high the thing is while both fingers hold it, m."""

    def __init__(self, episode: Episode) -> None:
        self.heights: list[float] = []
        self._world, self._name = episode.world, episode.layout.movable.name

    def add(self, step: Step) -> None:
        if self._world.held(self._name):
            self.heights.append(float(self._world.position(self._name)[2]))

    def abort(self, reason: str) -> None:
        pass


def random_joints(n: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(xarm7.SPEC.q_min, xarm7.SPEC.q_max, (n, 7))


@pytest.fixture(scope="module")
def rig() -> Rig:
    return load_rig(DEFAULT_RIG.with_name("xarm7_table.toml")).with_image_size(128, 96)


@pytest.fixture(scope="module")
def model(rig: Rig) -> mujoco.MjModel:
    return build_cell(rig, [])


@pytest.fixture(scope="module")
def cell(rig: Rig) -> Iterator[Cell]:
    with Cell(rig) as opened:
        yield opened


def test_forward_kinematics_is_the_product_of_the_manuals_joint_transforms(rig: Rig, model: mujoco.MjModel):
    kinematics, data = Kinematics(rig.arm), mujoco.MjData(model)
    for q in random_joints(100):
        np.testing.assert_allclose(kinematics.forward(q), published_pose(q), atol=1e-6)
        data.qpos[:7] = q
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(data.site("tcp").xpos, published_pose(q)[:3, 3], atol=1e-6)


@pytest.mark.parametrize(
    ("degrees", "flange_mm", "tool_axis"),
    [
        ((0, 0, 0, 0, 0, 0, 0), (206.0, 0, 120.5), (0, 0, -1)),  # the zero pose that UFACTORY Studio shows
        ((90, 0, 0, 0, 0, 0, 0), (0, 206.0, 120.5), (0, 0, -1)),
        ((0, 0, 0, 0, 0, -90, 0), (77.5 + 52.5 + 97, 0, 267 + 293 - 342.5 + 76), (1, 0, 0)),
        ((0, 0, 0, 180, 0, 0, 0), (52.5 - 77.5 - 76, 0, 267 + 293 + 342.5 + 97), (0, 0, 1)),
    ],
)
def test_poses_that_one_can_add_up_by_hand(
    rig: Rig, degrees: tuple[float, ...], flange_mm: tuple[float, ...], tool_axis: tuple[float, ...]
):
    X = Kinematics(rig.arm).forward(np.radians(degrees))
    np.testing.assert_allclose(X[:3, 2], tool_axis, atol=1e-6)
    np.testing.assert_allclose(1000 * X[:3, 3] - GRIPPER_MM * X[:3, 2], flange_mm, atol=1e-3)


def test_masses_torques_and_ranges_are_the_published_ones(model: mujoco.MjModel):
    assert model.body_mass.sum() == pytest.approx(sum(LINKS_KG) + GRIPPER_KG, abs=1e-3)
    assert model.nv == model.nu == 9 and model.neq == 0
    for i, (name, torque) in enumerate(zip(xarm7.SPEC.joint_names, TORQUES_NM, strict=True)):
        np.testing.assert_allclose(model.actuator(name).forcerange, (-torque, torque))
        np.testing.assert_allclose(model.joint(name).range, (xarm7.SPEC.q_min[i], xarm7.SPEC.q_max[i]))


def test_a_pose_is_held_without_drift(rig: Rig, model: mujoco.MjModel):
    clock = SimClock()
    twin = Twin(rig, model, clock)
    for q in (rig.arm.home_q, (0.8, 0.4, -0.5, 1.6, 0.6, 1.0, -0.5)):
        twin.place({}, np.array(q))
        clock.sleep_until(clock.now() + 2.0)
        measured, speed, torque, opening = (twin.sync(), twin.joint_state())[1]
        np.testing.assert_allclose(measured, q, atol=1e-4)
        np.testing.assert_allclose(speed, 0, atol=1e-3)
        np.testing.assert_allclose(torque, 0, atol=0.1)
        assert opening == pytest.approx(1.0, abs=0.02)
    left, right = (twin.data.geom(f"finger_{side}_pad") for side in ("left", "right"))
    between = np.linalg.norm(left.xpos - right.xpos) - 2 * xarm7.DESCRIPTION.hand.pad[1][1]
    assert between == pytest.approx(0.084, abs=0.001)


@pytest.mark.parametrize(("task", "seed"), [("pick_peach", 12_820_000), ("stack_bowls", 1_040_000)])
def test_a_scripted_demonstration_works_by_contact(cell: Cell, rig: Rig, task: str, seed: int):
    episode = cell.reset(get_task(task), seed)
    carried = Carried(episode)
    assert cell.run(episode, Scripted()(episode, rig, seed), max_steps=120, sinks=(carried,)).end.success
    assert max(carried.heights) > 0.1, "both fingers touched it while it was carried"


def test_the_safety_filter_of_a_real_one_knows_home_table_and_itself(rig: Rig):
    surroundings, home = Surroundings(replace(rig, safety=SafetyCfg())), np.array(rig.arm.home_q)
    assert surroundings.look(home).flag == SafetyFlag.NONE
    low = home + [0, 0.75, 0, 0.15, 0, -0.55, 0]
    place = surroundings.look(low)
    assert place.tcp[2] < 0.0 and "from the limit above the table" in place.what
    place = surroundings.look(np.array([0, -2.0, 0, 0.0, 0, -1.6, 0]))
    assert place.flag == SafetyFlag.COLLISION
    folded = surroundings.look(np.array([0, 0.0, 0, 0.3, 0, 3.0, 0]))
    assert folded.flag == SafetyFlag.COLLISION and "link" in folded.what and "table" not in folded.what, folded.what
