"""The xArm7's published data."""

from dataclasses import replace

import numpy as np
import pytest
from armflow.robot import xarm7
from armflow.robot.errors import ConfigError
from armflow.robot.rig import ArmCfg


def test_a_rig_may_name_it():
    home = (0.0, -0.2, 0.0, 1.0, 0.0, 1.2, 0.0)
    assert ArmCfg("xarm7", home).home_q == home
    with pytest.raises(ConfigError, match="joint4"):
        replace(ArmCfg("xarm7", home), home_q=(0.0, -0.2, 0.0, -1.0, 0.0, 1.2, 0.0))


@pytest.mark.parametrize("generation", ["XARM7_X4", "XARM7_X4_1305"])
def test_its_joint_range_is_inside_what_the_sdk_allows_for_every_xarm7(generation: str):
    config = pytest.importorskip("xarm.core.config.x_config", reason='needs the SDK: pip install "armflow[xarm]"')
    robot = config.XCONF.Robot
    low, high = np.array(robot.JOINT_LIMITS[robot.Axis.XARM7][getattr(robot.Type, generation)]).T
    assert (low <= xarm7.SPEC.q_min).all() and (xarm7.SPEC.q_max <= high).all()
    assert np.abs(np.concatenate([low - xarm7.SPEC.q_min, high - xarm7.SPEC.q_max])).max() < 0.1
