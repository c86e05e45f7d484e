"""The Panda is driven and modelled as the FR3, inside limits of its own."""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from armflow.robot import fr3, panda
from armflow.robot.clock import SimClock
from armflow.robot.drivers.franka import FrankaCfg
from armflow.robot.drivers.opencv import OpenCVCfg
from armflow.robot.kinematics import Kinematics
from armflow.robot.rig import ArmCfg, Rig, load_rig
from armflow.robot.rig_check import check_rig
from armflow.robot.station import make_arm
from armflow.robot.twin.cell import Cell
from armflow.robot.twin.tasks import get_task


@pytest.fixture
def rig() -> Rig:
    rig = load_rig()
    return replace(rig, arm=replace(rig.arm, model="panda"))


def test_its_tool_is_where_the_fr3s_is(rig: Rig) -> None:
    q = np.array(rig.arm.home_q) + 0.1
    of_the_fr3 = Kinematics(ArmCfg("fr3", rig.arm.home_q)).forward(q)
    np.testing.assert_array_equal(Kinematics(rig.arm).forward(q), of_the_fr3)


def test_the_driver_keeps_its_limits(rig: Rig) -> None:
    cfg = FrankaCfg("nowhere", speed_scale=1.0, acceleration_scale=1.0, jerk_scale=1.0, joint_margin_rad=0.0)
    limits = cfg.limits(panda.SPEC)
    np.testing.assert_array_equal(limits.q_max, panda.SPEC.q_max)
    np.testing.assert_array_equal(limits.dq_max, panda.SPEC.dq_max)
    np.testing.assert_array_equal(limits.ddq_max, panda.SPEC.ddq_max)
    assert limits.q_max[5] < fr3.SPEC.q_max[5] and limits.dq_max[0] < fr3.SPEC.dq_max[0]
    cameras = tuple(replace(camera, opencv=OpenCVCfg(0)) for camera in rig.cameras)
    pytest.importorskip("franky")
    assert make_arm(replace(rig, franka=cfg, cameras=cameras), SimClock()).spec is panda.SPEC


def test_it_has_a_twin(rig: Rig) -> None:
    with Cell(rig) as cell:
        episode = cell.reset(get_task("pick_peach"), 0)
        assert episode.arm.spec is panda.SPEC
    (twin,) = [finding for finding in check_rig(rig, today=date(2026, 1, 1)) if finding.subject == "twin"]
    assert twin.level == "ok"
