"""What the safety filter knows of the cell, and what it does about it."""

import re
from dataclasses import replace

import numpy as np
import pytest
from armflow.robot import fr3, openarm
from armflow.robot.collision import Surroundings
from armflow.robot.errors import ConfigError, SafetyStop
from armflow.robot.geometry import down_facing, pose
from armflow.robot.kinematics import Kinematics
from armflow.robot.rig import ArmCfg, load_rig
from armflow.robot.safety import JointSafety, SafetyCfg
from armflow.robot.types import ArmCommand, ArmState, Floats, SafetyFlag

CFG = SafetyCfg(engage_s=0.0, tcp_speed_m_s=1.0, blocked_stop_s=np.inf, start_tolerance_rad=np.inf)
RIG = replace(load_rig(), safety=CFG)
HOME, DT = np.array(RIG.arm.home_q), 0.1


@pytest.fixture(scope="module")
def kinematics() -> Kinematics:
    return Kinematics(RIG.arm)


@pytest.fixture(scope="module")
def surroundings() -> Surroundings:
    return Surroundings(RIG)


def reached(kinematics: Kinematics, position: tuple[float, float, float]) -> Floats:
    """Joints that bring the tool there, pointing down."""
    return kinematics.inverse(pose(position, down_facing(0.0)), HOME, iterations=100)


def at(q: Floats) -> ArmState:
    return ArmState(0.0, q, np.zeros(7), np.zeros(7), 1.0)


def led(safety: JointSafety, q: Floats, goal: Floats, ticks: int) -> tuple[list[Floats], SafetyFlag]:
    """Where the filter lets the arm go that starts at `q` and is asked for `goal` again and again, and all its flags."""
    safety.reset(at(q))
    path, flags = [q], SafetyFlag.NONE
    for _ in range(ticks):
        filtered = safety(ArmCommand(goal, 1.0), at(path[-1]), DT)
        path.append(filtered.command.q)
        flags |= filtered.flags
    return path, flags


def test_the_tool_is_where_kinematics_says(surroundings: Surroundings, kinematics: Kinematics) -> None:
    for q in HOME + 0.3 * np.random.default_rng(0).standard_normal((20, 7)):
        np.testing.assert_allclose(surroundings.look(q).tcp, kinematics.forward(q)[:3, 3], atol=1e-9)


def test_at_home_all_is_well(surroundings: Surroundings) -> None:
    assert surroundings.look(HOME).flag == SafetyFlag.NONE


@pytest.mark.parametrize(
    ("position", "flag", "what"),
    [((0.45, 0.0, 0.012), SafetyFlag.NONE, ""),  # the fingertips reach 8 mm further than the tool's centre
     ((0.45, 0.0, 0.005), SafetyFlag.COLLISION, "finger_(left|right)_pad is -0.003 m from the limit above the table"),
     ((0.45, 0.55, 0.3), SafetyFlag.WORKSPACE, r"the tool is at \[0.45., 0.550, 0.300\] m, outside its box")],
)  # fmt: skip
def test_table_and_box_are_where_the_rig_has_them(
    surroundings: Surroundings, kinematics: Kinematics,
    position: tuple[float, float, float], flag: SafetyFlag, what: str,
) -> None:  # fmt: skip
    place = surroundings.look(reached(kinematics, position))
    assert place.flag == flag
    assert re.fullmatch(what, place.what), place.what


def test_a_higher_table_and_a_negative_clearance_move_the_limit(kinematics: Kinematics) -> None:
    for height, clearance, z, flag in ((0.1, 0.0, 0.1, SafetyFlag.COLLISION), (0.1, 0.0, 0.12, SafetyFlag.NONE),
                                       (0.0, -0.02, 0.0, SafetyFlag.NONE), (0.0, 0.02, 0.02, SafetyFlag.COLLISION)):  # fmt: skip
        cell = Surroundings(replace(RIG, safety=replace(CFG, table_z_m=height, table_clearance_m=clearance)))
        assert cell.look(reached(kinematics, (0.45, 0.0, z))).flag == flag


def test_a_camera_in_the_way_is_seen_by_name(kinematics: Kinematics) -> None:
    head = replace(RIG.cameras[0], position=(0.5, 0.0, 0.4))
    place = Surroundings(replace(RIG, cameras=(head,))).look(reached(kinematics, (0.5, 0.0, 0.35)))
    assert place.flag == SafetyFlag.COLLISION
    assert "camera head" in place.what


def test_the_arm_sees_itself(surroundings: Surroundings) -> None:
    folded = np.array([0.0, -1.6, 0.0, -3.0, 0.0, 0.6, 0.0])
    place = surroundings.look(folded)
    assert place.flag == SafetyFlag.COLLISION
    assert "table" not in place.what and "camera" not in place.what


def test_switched_off_it_sees_only_the_box() -> None:
    off = replace(CFG, clearance_m=-np.inf, table_clearance_m=-np.inf, tcp_min=(-2, -2, -2), tcp_max=(2, 2, 2))
    cell = Surroundings(replace(RIG, safety=off))
    for q in np.random.default_rng(1).uniform(fr3.SPEC.q_min, fr3.SPEC.q_max, (200, 7)):
        assert cell.look(q).flag == SafetyFlag.NONE


def test_an_arm_without_a_model_is_refused() -> None:
    arm = ArmCfg(openarm.RIGHT.name, home_q=(0.0,) * 7)
    for make in (lambda: Surroundings(replace(RIG, arm=arm)), lambda: Kinematics(arm)):
        with pytest.raises(ConfigError, match="no model of the openarm_right, only of: fr3, panda, xarm7"):
            make()


# --- in the filter


@pytest.mark.parametrize(
    ("goal", "flag"),
    [((0.5, 0.0, -0.1), SafetyFlag.COLLISION), ((0.5, 0.55, 0.2), SafetyFlag.WORKSPACE)],
)
@pytest.mark.parametrize("acceleration", [0.3, 6.5])
def test_an_arm_led_against_a_limit_stops_short_of_it_and_comes_back(
    surroundings: Surroundings, kinematics: Kinematics, goal: tuple[float, float, float], flag: SafetyFlag,
    acceleration: float,
) -> None:  # fmt: skip
    start, cfg = reached(kinematics, (0.5, 0.1, 0.2)), replace(CFG, acceleration_scale=acceleration)
    safety = JointSafety(fr3.SPEC, cfg, surroundings)
    path, flags = led(safety, start, reached(kinematics, goal), 40)
    assert flags & flag
    assert not [q for q in path if surroundings.look(q).flag]
    np.testing.assert_array_equal(path[-1], path[-2])
    end = surroundings.look(path[-1]).tcp
    assert min(end[2] - 0.008, 0.5 - end[1]) < 0.06, "it went there as far as it could"
    for _ in range(60):
        path.append(safety(ArmCommand(start, 1.0), at(path[-1]), DT).command.q)
    np.testing.assert_allclose(path[-1], start, atol=1e-6)


def test_the_tool_is_no_faster_than_allowed_and_arrives(surroundings: Surroundings, kinematics: Kinematics) -> None:
    safety = JointSafety(fr3.SPEC, replace(CFG, tcp_speed_m_s=0.1), surroundings)
    goal = reached(kinematics, (0.6, 0.2, 0.2))
    path, flags = led(safety, reached(kinematics, (0.4, -0.2, 0.2)), goal, 150)
    tcp = np.array([surroundings.look(q).tcp for q in path])
    speeds = np.linalg.norm(np.diff(tcp, axis=0), axis=1) / DT
    assert 0.05 < speeds.max() <= 0.1 + 1e-9
    assert flags & SafetyFlag.TCP_SPEED
    np.testing.assert_allclose(path[-1], goal, atol=1e-6)


def test_who_keeps_pushing_against_a_limit_is_stopped_by_name(
    surroundings: Surroundings, kinematics: Kinematics
) -> None:
    safety = JointSafety(fr3.SPEC, replace(CFG, blocked_stop_s=0.5), surroundings)
    with pytest.raises(SafetyStop, match=r"followed for 0\.5 s: .* from the limit above the table"):
        led(safety, reached(kinematics, (0.5, 0.0, 0.2)), reached(kinematics, (0.5, 0.0, -0.2)), 100)


def test_an_arm_that_is_already_too_close_does_not_start(surroundings: Surroundings, kinematics: Kinematics) -> None:
    safety = JointSafety(fr3.SPEC, CFG, surroundings)
    with pytest.raises(SafetyStop, match="cannot start here: finger.*guide it away by hand"):
        safety.reset(at(reached(kinematics, (0.5, 0.0, 0.0))))
    with pytest.raises(SafetyStop, match="acknowledge"):
        safety.reset(at(HOME))
