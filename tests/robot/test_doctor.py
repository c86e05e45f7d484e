"""`armflow doctor hardware`: on this computer, on trees that look like others, and on cameras that are software."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from armflow.robot import doctor, doctor_host
from armflow.robot.clock import MonotonicClock, SimClock
from armflow.robot.doctor import check_arm, check_camera, examine, plugged_in
from armflow.robot.doctor_host import check_clock, check_clock_source, check_disk, check_realtime, check_usb
from armflow.robot.drivers.franka import FrankaCfg
from armflow.robot.drivers.opencv import OpenCVCfg
from armflow.robot.drivers.realsense import RealSenseCfg
from armflow.robot.findings import Finding, show
from armflow.robot.rig import CameraCfg, load_rig
from rich.console import Console


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[str, str], Path]:
    """tree(path, text): the root of a file system with that file."""

    def write(path: str, text: str) -> Path:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text + "\n")
        return tmp_path

    return write


def test_this_computer_is_examined_with_advice_for_whatever_is_not_in_order(tmp_path: Path):
    heard: list[str] = []
    findings = list(examine(load_rig(), tmp_path / "runs" / "new", 0.1, heard.append))
    subjects = {f.subject for f in findings}
    assert {"clock", "clock source", "kernel", "real-time priority", "disk space", "disk", "devices"} <= subjects
    assert all(f.advice for f in findings if f.level != "ok")
    assert heard and not list(tmp_path.iterdir()), "a probe leaves nothing behind"


class LateClock(SimClock):
    def __init__(self, late_s: float) -> None:
        super().__init__()
        self._late = late_s

    def sleep_until(self, t: float) -> None:
        super().sleep_until(t + self._late)


@pytest.mark.parametrize(("late_s", "level"), [(0.0, "ok"), (0.02, "error")])
def test_a_computer_that_wakes_late_is_told(late_s: float, level: str):
    assert check_clock(LateClock(late_s), 1.0).level == level


@pytest.mark.parametrize(("source", "level"), [("tsc", "ok"), ("hpet", "warning")])
def test_a_slow_clock_source_is_told(tree: Callable[[str, str], Path], source: str, level: str):
    root = tree("sys/devices/system/clocksource/clocksource0/current_clocksource", source)
    assert check_clock_source(root).level == level


def test_kernel_priority_and_governor_are_told(tree: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("resource.getrlimit", lambda _: (0, 0))
    root = tree("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave")
    levels = {f.subject: f.level for f in check_realtime(root)}
    assert levels == {"kernel": "warning", "real-time priority": "warning", "CPU governor": "warning"}
    tree("sys/kernel/realtime", "1")
    tree("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance")
    monkeypatch.setattr("resource.getrlimit", lambda _: (0, 99))
    assert {f.level for f in check_realtime(root)} == {"ok"}


def test_usb_memory_for_two_cameras(tree: Callable[[str, str], Path]):
    root = tree("sys/module/usbcore/parameters/usbfs_memory_mb", "16")
    assert check_usb(root).level == "warning" and check_usb(root, cameras=1).level == "ok"
    assert check_usb(root / "elsewhere").level == "warning"


def test_a_slow_or_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor_host, "_write_rate", lambda path: 20.0)
    assert [f.level for f in check_disk(tmp_path)][-1] == "warning"
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100e6))
    assert [f.level for f in check_disk(tmp_path)] == ["warning", "error"]


@pytest.fixture
def video(tmp_path: Path) -> Callable[[float], CameraCfg]:
    """video(fps): a camera that is a video file of that rate, 3 s long."""

    def make(fps: float) -> CameraCfg:
        path = tmp_path / "scene.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (64, 48))
        for _ in range(round(3 * fps)):
            writer.write(np.zeros((48, 64, 3), np.uint8))
        writer.release()
        head = load_rig().with_image_size(64, 48).camera("head")
        return replace(head, fps=fps, opencv=OpenCVCfg(path))

    return make


def test_a_camera_is_watched(video: Callable[[float], CameraCfg]):
    found = check_camera(video(10.0), MonotonicClock(), 1.0)
    assert found.subject == "camera head" and "of 10 Hz, 0 dropped, 0 refused" in found.found


def test_a_camera_that_is_not_there_is_an_error_with_advice(video: Callable[[float], CameraCfg]):
    cfg = replace(video(10.0), opencv=OpenCVCfg(Path("none.avi")))
    assert check_camera(cfg, MonotonicClock(), 0.1).level == "error"
    pytest.importorskip("pyrealsense2", exc_type=ImportError)
    found = check_camera(replace(cfg, opencv=None, realsense=RealSenseCfg()), MonotonicClock(), 0.1)
    assert found.level == "error" and "no RealSense with serial" in found.found


def test_an_arm_that_is_not_there_is_an_error_with_advice():
    pytest.importorskip("franky", reason="needs franky-control")
    rig = replace(load_rig(), cameras=(), franka=FrankaCfg("127.0.0.1"))
    found = check_arm(rig, MonotonicClock())
    assert found.level == "error" and "no FCI at 127.0.0.1" in found.found and "Desk" in found.advice


def test_devices_on_one_controller_and_unknown_ones_are_told(monkeypatch: pytest.MonkeyPatch):
    def device(serial: str, port: str) -> SimpleNamespace:
        return SimpleNamespace(get_info={"name": "D435", "serial_number": serial, "physical_port": port}.__getitem__)

    bus = "/sys/devices/pci0000:00/0000:00:14.0/usb2/2-"
    there = [device("twin-head", bus + "1/x"), device("twin-front", bus + "2/y"), device("other", "/sys/usb9/z")]
    info = SimpleNamespace(name="name", serial_number="serial_number", physical_port="physical_port")
    sdk = SimpleNamespace(camera_info=info, context=lambda: SimpleNamespace(query_devices=lambda: there))
    monkeypatch.setattr(doctor, "load_sdk", lambda: sdk)
    rig = load_rig()
    rig = replace(rig, cameras=tuple(replace(c, realsense=RealSenseCfg()) for c in rig.cameras))
    findings = list(plugged_in(rig))
    assert "not in the rig" in next(f for f in findings if "other" in f.subject).advice
    assert next(f for f in findings if f.subject == "USB").found == "2 cameras share controller 0000:00:14.0"


def test_findings_are_shown_with_their_marks():
    console = Console(record=True, width=120)
    assert show([Finding("ok", "a", "fine"), Finding("warning", "b", "[odd]", "look")], console)
    assert not show([Finding("error", "c", "broken", "mend it")], console)
    text = console.export_text()
    assert all(word in text for word in ("ok", "warning", "[odd]", "look", "error", "mend it"))
