"""A rig opens as what it describes, and drives home through the one loop."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from armflow.robot.clock import MonotonicClock, SimClock
from armflow.robot.control import LoopCfg, run_episode
from armflow.robot.drivers.franka import FrankaCfg
from armflow.robot.drivers.opencv import OpenCVCamera, OpenCVCfg
from armflow.robot.drivers.realsense import RealSenseCamera, RealSenseCfg
from armflow.robot.errors import ConfigError, DeviceNotFound, OperatorNeeded
from armflow.robot.fakes import FakeArm
from armflow.robot.homing import ACCELERATION, SPEED, Homing, seconds_needed
from armflow.robot.rig import ArmCfg, Rig, load_rig
from armflow.robot.safety import JointSafety
from armflow.robot.station import Station, go_home, make_arm, make_camera, open_station


@pytest.fixture(scope="module")
def rig() -> Rig:
    return load_rig().with_image_size(64, 48)


def test_a_rig_without_devices_opens_as_its_twin(rig: Rig):
    with open_station(rig, task="stack_bowls", seed=3) as station:
        assert station.episode is not None and "bowl" in station.episode.layout.instruction
        np.testing.assert_allclose(station.arm.read().q, rig.arm.home_q, atol=0.1)  # a task starts near it
        assert set(station.cameras) == {"head", "front"}


def test_a_dry_run_of_hardware_opens_no_device(rig: Rig):
    cameras = tuple(replace(c, realsense=RealSenseCfg()) for c in rig.cameras)
    hardware = replace(rig, cameras=cameras, franka=FrankaCfg("nowhere.invalid"))
    with open_station(hardware, twin=True) as station:
        assert station.cameras["head"].latest(max_age_s=1.0).rgb.shape == (48, 64, 3)


def test_an_arm_without_a_twin_has_no_dry_run(rig: Rig):
    openarm = replace(rig, arm=ArmCfg("openarm_left", (0.0,) * 7))
    with (
        pytest.raises(ConfigError, match="no twin of the openarm_left, only of: fr3"),
        open_station(openarm, twin=True),
    ):
        pass


def test_a_camera_that_is_missing_ends_the_opening_before_the_arm(rig: Rig):
    cameras = tuple(replace(c, opencv=OpenCVCfg(Path("none.mp4"))) for c in rig.cameras)
    hardware = replace(rig, cameras=cameras, franka=FrankaCfg("nowhere.invalid"))
    with pytest.raises(DeviceNotFound, match=r"there is no video file none\.mp4"), open_station(hardware):
        pass


def test_sections_choose_the_driver(rig: Rig):
    head, clock = rig.camera("head"), MonotonicClock()
    assert isinstance(make_camera(replace(head, opencv=OpenCVCfg(0)), clock), OpenCVCamera)
    pytest.importorskip("pyrealsense2", exc_type=ImportError)
    assert isinstance(make_camera(replace(head, realsense=RealSenseCfg()), clock), RealSenseCamera)
    with pytest.raises(ConfigError, match=r"camera head is the twin's; give it a section"):
        make_camera(head, clock)
    with pytest.raises(ConfigError, match="describes no arm but the twin's"):
        make_arm(rig, clock)


def station_on(arm: FakeArm, rig: Rig) -> Station:
    return Station(rig, arm, {}, JointSafety(arm.spec, rig.safety), SimClock(), None)


def test_home_is_reached_slowly_and_in_a_straight_line(rig: Rig):
    clock = SimClock()
    start = np.array(rig.arm.home_q) + (0.8, -0.3, 0.1, 0.2, -0.5, 0.3, 1.0)
    arm = FakeArm(clock, q=start)
    go_home(replace(station_on(arm, rig), clock=clock))
    q = np.array([start, *(c.q for c in arm.commands)])
    np.testing.assert_allclose(q[-1], rig.arm.home_q, atol=1e-6)
    speed = np.diff(q, axis=0) * rig.control_hz
    assert (np.abs(speed) <= SPEED * arm.spec.dq_max + 1e-9).all()
    assert (np.abs(np.diff(speed, axis=0)) * rig.control_hz <= ACCELERATION * arm.spec.ddq_max + 1e-6).all()
    share = (q - start) / (rig.arm.home_q - start)
    np.testing.assert_allclose(share, share[:, :1].repeat(7, 1), atol=1e-6)


def test_home_is_reached_in_the_twin(rig: Rig):
    with open_station(rig, seed=1) as station:
        assert station.episode is not None
        fast = replace(station, clock=SimClock())
        twin = station.episode.twin
        twin.clock = fast.clock
        twin.place({}, np.array(rig.arm.home_q) + 0.2)
        go_home(fast)
        np.testing.assert_allclose(station.arm.read().q, rig.arm.home_q, atol=0.02)


def test_an_arm_that_is_held_is_the_operators_business(rig: Rig):
    clock = SimClock()
    arm = FakeArm(clock, q=np.array(rig.arm.home_q) + 0.3, clip_rad=1e-9)
    with pytest.raises(OperatorNeeded, match=r"fr3 is 0\.30 rad from its goal on joint[1-7]: see what is in its way"):
        go_home(replace(station_on(arm, rig), clock=clock))


def test_the_longest_way_is_done_in_the_time_given_to_it():
    clock = SimClock()
    arm = FakeArm(clock, q=load_rig().arm.home_q)  # type: ignore[arg-type]
    spec = arm.spec
    arm.q = spec.q_min + 0.06
    result = run_episode(
        arm=arm, cameras={}, source=Homing(spec, spec.q_max - 0.06, 10.0), safety=JointSafety(spec), clock=clock,
        cfg=LoopCfg(fps=10.0, max_steps=round(10 * seconds_needed(spec))),
    )  # fmt: skip
    assert result.end.reason == "source ended"
