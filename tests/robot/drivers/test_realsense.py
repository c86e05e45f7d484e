"""The RealSense driver on the real pipeline of librealsense, with devices made of software."""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from armflow.robot.camera import Camera
from armflow.robot.clock import MonotonicClock
from armflow.robot.control import LoopCfg, run_episode
from armflow.robot.drivers.frame_reader import ReaderCfg
from armflow.robot.drivers.realsense import RealSenseCamera, RealSenseCfg
from armflow.robot.drivers.realsense_device import depth_table
from armflow.robot.errors import ArmflowError, ConfigError, DeviceFault, DeviceNotFound, StaleReading
from armflow.robot.fakes import FakeArm, FakeSource
from armflow.robot.rig import CameraCfg
from armflow.robot.safety import JointSafety
from armflow.robot.types import CameraSpec

WIDTH, HEIGHT, FPS = 64, 48, 30
FRESH_S = 5.0  # generous: the machine may be busy
PATIENT = RealSenseCfg(depth_width=WIDTH, depth_height=HEIGHT, reader=ReaderCfg(stall_s=60.0))
HASTY = replace(PATIENT, reader=ReaderCfg(
    wait_s=0.05, stall_s=0.5, first_frame_s=1.0, restarts=2, pause_s=0.1, reset_timeout_s=0.2
))  # fmt: skip

Plug = Callable[..., Any]
Eventually = Callable[[Callable[[], bool]], None]


def rig_camera(serial: str = "A", **changes: Any) -> CameraSpec:
    """What the rig says of a camera that fits the software devices."""
    cfg = CameraCfg(
        name="head", width=WIDTH, height=HEIGHT, fps=FPS, fx=60.0, fy=60.0, cx=31.5, cy=23.5, serial=serial,
        position=(0.1, 0.2, 0.3), quat_wxyz=(0.0, 1.0, 0.0, 0.0),
    )  # fmt: skip
    return replace(cfg, **changes).spec()


def opened(device: Any, cfg: RealSenseCfg = PATIENT, **changes: Any) -> RealSenseCamera:
    return RealSenseCamera(rig_camera(**({"serial": device.serial} | changes)), cfg, context=device.context)


def error_of(camera: Camera, kind: type[ArmflowError]) -> Callable[[], bool]:
    """Whether asking for any frame, however old, is this error now; the asking must not wait."""

    def asked() -> bool:
        start = time.monotonic()
        try:
            camera.latest(max_age_s=1e9)
        except ArmflowError as error:
            assert time.monotonic() - start < 1.0
            return type(error) is kind
        return False

    return asked


def test_a_frame_is_what_the_spec_says(plug: Plug):
    with opened(plug()) as camera:
        frame, spec = camera.latest(max_age_s=FRESH_S), camera.spec
        assert frame.rgb.shape == (spec.height, spec.width, 3) and frame.rgb.dtype == np.uint8
        assert frame.depth_mm.shape == (spec.height, spec.width) and frame.depth_mm.dtype == np.uint16
        np.testing.assert_array_equal(frame.rgb, frame.frame_number % 256)
        np.testing.assert_allclose(spec.X_BC[:3, 3], (0.1, 0.2, 0.3))
        assert (spec.name, spec.fps, spec.serial) == ("head", FPS, "A")


def test_two_cameras_give_millimetres_whatever_their_units(plug: Plug):
    a = plug("A", depth=np.full((HEIGHT, WIDTH), 1234, np.uint16), grey=lambda _: 10)
    b = plug("B", units_m=1e-4, depth=np.full((HEIGHT, WIDTH), 12340, np.uint16), grey=lambda _: 20)
    with opened(a) as one, opened(b, depth_scale_m=1e-4) as other:
        for camera, grey in ((one, 10), (other, 20)):
            frame = camera.latest(max_age_s=FRESH_S)
            assert set(np.unique(frame.depth_mm)) <= {0, 1234} and (frame.depth_mm == 1234).mean() > 0.5
            assert (frame.rgb == grey).all()


def test_depth_saturates_and_no_return_stays_no_return():
    far = depth_table(1e-2)
    assert far[0] == 0 and far[100] == 1000 and far[6553] == 65530
    assert (far[6554:] == 65535).all()
    np.testing.assert_array_equal(depth_table(float(np.float32(1e-3))), np.arange(65536))
    assert depth_table(float(np.float32(1e-4)))[[0, 4, 16, 65530]].tolist() == [0, 0, 2, 6553]


def test_depth_is_aligned_to_colour(plug: Plug):
    """A block 1 m away in front of a wall, seen by a depth camera of another focal length, 10 cm beside the colour one."""
    depth = np.full((HEIGHT, WIDTH), 3000, np.uint16)
    depth[16:32, 20:28] = 1000
    with opened(plug(depth=depth)) as camera:
        v, u = np.nonzero(camera.latest(max_age_s=FRESH_S).depth_mm == 1000)
        np.testing.assert_allclose(camera.info.X_CD[:3, 3], (0.1, 0, 0), atol=1e-6)
    edges_u = [(x - 31.5) / 50 * 60 + 0.1 * 60 + 31.5 for x in (19.5, 27.5)]
    edges_v = [(y - 23.5) / 50 * 60 + 23.5 for y in (15.5, 31.5)]
    np.testing.assert_allclose([u.min() - 0.5, u.max() + 0.5], edges_u, atol=1.6)
    np.testing.assert_allclose([v.min() - 0.5, v.max() + 0.5], edges_v, atol=1.6)


def test_gaps_of_the_frame_number_are_counted(plug: Plug, eventually: Eventually):
    """A busy machine may lose a few frames more; repeats are counted in `test_frame_reader.py`."""
    device = plug()
    with opened(device) as camera:
        device.pause()
        before, last = camera.stats.dropped, device.number
        device.number += 1000
        device.flowing.set()
        eventually(lambda: camera.latest(max_age_s=60.0).frame_number > last + 1000)
        assert 1000 <= camera.stats.dropped - before < 1500


def test_frames_do_not_change_afterwards(plug: Plug, eventually: Eventually):
    """Librealsense uses its memory again; frames must be copies."""
    with opened(plug()) as camera:
        frame = camera.latest(max_age_s=FRESH_S)
        rgb, depth = frame.rgb.copy(), frame.depth_mm.copy()
        eventually(lambda: camera.stats.frames > 40)
        np.testing.assert_array_equal(frame.rgb, rgb)
        np.testing.assert_array_equal(frame.depth_mm, depth)
        assert frame.rgb.flags.owndata and frame.depth_mm.flags.owndata


def test_a_frame_older_than_allowed_is_an_error(plug: Plug):
    device = plug()
    with opened(device) as camera:
        device.pause()
        time.sleep(0.2)
        with pytest.raises(StaleReading, match="old, allowed is 0.05 s; if this lasts, check cable") as caught:
            camera.latest(max_age_s=0.05)
        assert caught.value.device == "head"
        assert camera.latest(max_age_s=60.0)


def test_a_stall_is_an_error_at_once_and_ends_when_frames_come_again(plug: Plug, eventually: Eventually):
    device = plug()
    with opened(device, replace(HASTY, reader=replace(HASTY.reader, restarts=1000))) as camera:
        device.pause()
        eventually(error_of(camera, StaleReading))
        with pytest.raises(StaleReading, match="restarting the stream, 1 of 1000"):
            camera.latest(max_age_s=1e9)
        device.flowing.set()
        eventually(lambda: camera.latest(max_age_s=FRESH_S).frame_number > 0)
        assert camera.stats.stalls >= 1 and camera.stats.restarts >= 1 and camera.stats.resets == 0


def test_colour_without_its_own_depth_is_not_a_frame(plug: Plug, eventually: Eventually):
    """When depth stops, librealsense pairs every new colour frame with the last depth frame."""
    device = plug()
    with opened(device) as camera:
        device.streams = "c"
        eventually(lambda: camera.stats.refused > 3)
        newest = camera.latest(max_age_s=60.0)
        eventually(lambda: camera.stats.refused > 6)
        assert camera.latest(max_age_s=60.0) is newest
        with pytest.raises(StaleReading, match="colour and depth are .* ms apart, allowed are 25 ms"):
            camera.latest(max_age_s=0.01)
        device.streams = "cd"
        eventually(lambda: camera.latest(max_age_s=60.0).frame_number > newest.frame_number)


def test_a_stalled_camera_ends_the_episode_and_the_arm_holds(plug: Plug):
    device, clock = plug(), MonotonicClock()
    arm = FakeArm(clock)
    with opened(device) as camera:
        device.pause()
        with pytest.raises(StaleReading):
            run_episode(
                arm=arm, cameras={"head": camera}, source=FakeSource(frames=True), clock=clock,
                safety=JointSafety(arm.spec), cfg=LoopCfg(max_frame_age_s=0.5),
            )  # fmt: skip
    assert arm.holding


def test_an_unplugged_camera_is_a_fault_after_restarts_and_a_reset(plug: Plug, eventually: Eventually):
    device = plug()
    with opened(device, HASTY) as camera:
        device.unplug()
        eventually(error_of(camera, DeviceFault))
        with pytest.raises(DeviceFault, match="no RealSense with serial 'A'.*2 restarts and 1 resets.*Unplug"):
            camera.latest(max_age_s=1e9)
        assert (camera.stats.restarts, camera.stats.resets, camera.stats.stalls) == (2, 1, 1)


def test_a_camera_that_is_plugged_in_again_goes_on(plug: Plug, eventually: Eventually):
    device = plug()
    with opened(device, replace(HASTY, reader=replace(HASTY.reader, restarts=1000))) as camera:
        device.unplug()
        eventually(error_of(camera, StaleReading))
        again = plug(grey=lambda _: 77)
        eventually(lambda: camera.latest(max_age_s=FRESH_S).rgb[0, 0, 0] == 77)
        again.unplug()


def test_another_serial_is_not_found_and_those_there_are_named(plug: Plug):
    plug("B")
    plug("C")
    with (
        pytest.raises(DeviceNotFound, match="no RealSense with serial 'A'; connected: B, C") as caught,
        opened(plug("D"), serial="A"),
    ):
        pass
    assert caught.value.device == "head"


def test_a_rig_without_serial_is_refused(plug: Plug):
    with pytest.raises(ConfigError, match="has no serial"):
        opened(plug(), serial="")


def test_usb_2_is_refused(plug: Plug):
    with pytest.raises(DeviceFault, match=r"connected over USB 2\.1, needs USB 3"), opened(plug(usb="2.1")):
        pass


def test_streams_that_the_device_lacks_are_refused(plug: Plug):
    lacks = r"the device has no colour 64 x 48 \(rgb8\) with depth 848 x 480 \(z16\) at 30 Hz"
    with pytest.raises(ConfigError, match=lacks), opened(plug(), RealSenseCfg()):
        pass


def test_calibrated_intrinsics_win_and_those_of_the_device_are_told(plug: Plug):
    with opened(plug(), fx=61.0, distortion=(0.01, 0.0, 0.0, 0.0, 0.0)) as camera:
        assert camera.spec.K[0, 0] == 61.0 and camera.spec.distortion[0] == 0.01
        np.testing.assert_allclose(camera.info.K, [[60, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])
        assert (camera.info.distortion == 0).all() and camera.info.distortion_model == "brown_conrady"
        assert (camera.info.serial, camera.info.usb_type, camera.info.firmware) == ("A", "3.2", "5.16.0.1")


@pytest.mark.parametrize("change", [{"fx": 80.0}, {"cy": 30.0}, {"distortion": (0.9, 0.0, 0.0, 0.0, 0.0)}])
def test_intrinsics_of_another_camera_are_refused(plug: Plug, change: dict[str, Any]):
    with (
        pytest.raises(ConfigError, match=r"px apart, allowed are 5 px.*fx = 60\.000.*cy = 23\.500"),
        opened(plug(), **change),
    ):
        pass


def test_another_depth_scale_than_the_rigs_is_refused(plug: Plug):
    with (
        pytest.raises(ConfigError, match=r"depth_scale_m = 0\.001, device A counts depth in 0\.0001 m"),
        opened(plug(units_m=1e-4)),
    ):
        pass


def test_capture_time_is_the_devices_where_it_keeps_the_hosts_time(plug: Plug):
    with opened(plug(global_time=True, latency_s=0.5)) as camera:
        age = time.monotonic() - camera.latest(max_age_s=FRESH_S).t
        assert 0.49 <= age < FRESH_S and camera.timing.domain == "global_time" and camera.timing.ahead == 0


def test_capture_time_is_arrival_time_by_any_other_clock(plug: Plug):
    before = time.monotonic()
    with opened(plug(latency_s=0.5)) as camera:
        assert before <= camera.latest(max_age_s=FRESH_S).t <= time.monotonic()
        assert camera.timing.domain == "hardware_clock"


def test_a_time_stamp_of_the_future_is_not_believed(plug: Plug):
    """The wall clock was set back: such frames would stay fresh for ever."""
    with opened(plug(global_time=True, latency_s=-1.0)) as camera:
        assert camera.latest(max_age_s=FRESH_S).t <= time.monotonic() and camera.timing.ahead > 0


AUTOMATIC = {
    "enable_auto_exposure": 0, "exposure": 156, "gain": 64, "enable_auto_white_balance": 1, "white_balance": 4600,
}  # fmt: skip


def colour_options(device: Any) -> dict[str, float]:
    return {name: device.rgb.get_option(getattr(device.rs.option, name)) for name in device.options}


def test_automatics_settle_and_are_locked(plug: Plug):
    device = plug(options=AUTOMATIC | {"global_time_enabled": 0, "auto_exposure_priority": 1}, grey=lambda _: 90)
    with opened(device, replace(PATIENT, warm_up_s=0.1)) as camera:
        options = colour_options(device)
        assert camera.fixed_settings == {"exposure": 156, "gain": 64, "white_balance": 4600}
        assert options["enable_auto_exposure"] == options["enable_auto_white_balance"] == 0
        assert (options["global_time_enabled"], options["auto_exposure_priority"]) == (1, 0)


def test_automatics_are_on_while_they_settle_and_a_lock_that_changes_the_picture_is_refused(plug: Plug):
    def dark_by_hand(device: Any) -> int:
        return 120 if device.rgb.get_option(device.rs.option.enable_auto_exposure) else 60

    device = plug(options=AUTOMATIC, grey=dark_by_hand)  # its last user has switched the automatic exposure off
    with (
        pytest.raises(ConfigError, match="changed the mean brightness by -60 of 255.*Give exposure, gain"),
        opened(device, replace(PATIENT, warm_up_s=0.3)),
    ):
        pass


def test_given_settings_are_set_and_automatics_may_stay(plug: Plug):
    device = plug(options=AUTOMATIC)
    with opened(device, replace(PATIENT, exposure=80.0, gain=16.0, lock_exposure=False)) as camera:
        options = colour_options(device)
        assert (options["enable_auto_exposure"], options["exposure"], options["gain"]) == (0, 80, 16)
        assert options["enable_auto_white_balance"] == 1
        assert camera.fixed_settings == {"exposure": 80, "gain": 16}


def test_settings_survive_a_restart(plug: Plug, eventually: Eventually):
    device = plug(options=AUTOMATIC)
    cfg = replace(HASTY, exposure=80.0, gain=16.0, white_balance=5000.0, reader=replace(HASTY.reader, restarts=1000))
    with opened(device, cfg) as camera:
        device.pause()
        device.rgb.set_option(device.rs.option.exposure, 999.0)  # as a reset of the device would
        eventually(lambda: camera.stats.restarts > 0)
        device.flowing.set()
        eventually(lambda: camera.latest(max_age_s=FRESH_S).frame_number > 0)
        assert colour_options(device)["exposure"] == 80


def test_a_camera_can_be_opened_again_after_it_was_left(plug: Plug):
    device = plug()
    with opened(device) as camera:
        pass
    with pytest.raises(DeviceFault, match="nothing reads the camera any more.*open it again"):
        camera.latest(max_age_s=FRESH_S)
    with opened(device) as camera:
        assert camera.latest(max_age_s=FRESH_S)


def test_a_camera_that_is_not_open_says_so(plug: Plug):
    camera = opened(plug())
    with pytest.raises(DeviceFault, match="not open; enter its context"):
        camera.latest(max_age_s=FRESH_S)
    with pytest.raises(DeviceFault, match="not open; enter its context"):
        _ = camera.info


@pytest.fixture
def recording(plug: Plug, tmp_path: Path) -> Path:
    """One second of a camera with units of 0.1 mm, by librealsense's own recorder."""
    device, path = plug(units_m=1e-4, depth=np.full((HEIGHT, WIDTH), 12340, np.uint16)), tmp_path / "scene.bag"
    rs = device.rs
    pipeline, config = rs.pipeline(device.context), rs.config()
    config.enable_device("A")
    config.enable_stream(rs.stream.color, WIDTH, HEIGHT, rs.format.rgb8, FPS)
    config.enable_stream(rs.stream.depth, WIDTH, HEIGHT, rs.format.z16, FPS)
    config.enable_record_to_file(str(path))
    pipeline.start(config)
    time.sleep(1.0)
    pipeline.stop()
    device.stop()
    return path


def test_a_recording_plays_like_a_device_until_its_end(recording: Path, eventually: Eventually):
    camera_cfg = rig_camera("", depth_scale_m=1e-4)
    with RealSenseCamera(camera_cfg, RealSenseCfg(playback=recording)) as camera:
        first = camera.latest(max_age_s=FRESH_S)
        assert set(np.unique(first.depth_mm)) <= {0, 1234} and (first.depth_mm == 1234).mean() > 0.5
        np.testing.assert_array_equal(first.rgb, first.frame_number % 256)
        assert camera.info.serial == "A"
        eventually(error_of(camera, DeviceFault))
        with pytest.raises(DeviceFault, match="scene.bag has ended"):
            camera.latest(max_age_s=1e9)
        assert camera.stats.frames > 5 and camera.stats.restarts == 0


def test_a_recording_of_another_camera_is_refused(recording: Path):
    with (
        pytest.raises(DeviceNotFound, match="was recorded with 'A', the rig wants 'B'"),
        RealSenseCamera(rig_camera("B", depth_scale_m=1e-4), RealSenseCfg(playback=recording)),
    ):
        pass


def test_what_is_not_a_recording_is_refused(plug: Plug, tmp_path: Path):
    plug()  # skips where librealsense is missing
    with (
        pytest.raises(DeviceNotFound, match="there is no recording"),
        RealSenseCamera(rig_camera(), RealSenseCfg(playback=tmp_path / "none.bag")),
    ):
        pass
    (tmp_path / "text.bag").write_text("not a recording")
    with (
        pytest.raises(ConfigError, match=r"text.bag has no colour 64 x 48"),
        RealSenseCamera(rig_camera(), RealSenseCfg(playback=tmp_path / "text.bag")),
    ):
        pass


def test_without_librealsense_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    with pytest.raises(ConfigError, match=r'pip install "armflow\[realsense\]"'):
        RealSenseCamera(rig_camera())
