"""A rig file that is wrong says where; a rig that differs in anything has another hash."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from armflow.robot.errors import ConfigError
from armflow.robot.geometry import project
from armflow.robot.rig import DEFAULT_RIG, Rig, load_rig

DEFAULT = DEFAULT_RIG.read_text()


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], Rig]:
    def _load(text: str) -> Rig:
        path = tmp_path / "my_rig.toml"
        path.write_text(text)
        return load_rig(path)

    return _load


def edited(old: str, new: str) -> str:
    assert old in DEFAULT, f"the default rig has no line {old!r} any more"
    return DEFAULT.replace(old, new, 1)


def test_the_shipped_rig_has_the_cameras_and_units_of_the_cell():
    rig = load_rig()
    assert [c.name for c in rig.cameras] == ["head", "front"]
    assert rig.control_hz == 10
    head = rig.camera("head").spec()
    assert head.K[0, 0] == 610 and head.X_BC[2, 3] == 0.74
    assert head.X_BC[2, 2] < -0.5, "it looks down"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("control_hz = 10.0", "control_hz = 10.0\ncolour = 1", r"unknown key colour; valid keys: name, control_hz"),
        ("serial = \"twin-head\"", "sreial = \"x\"", r"cameras\[0\]: unknown key sreial; valid keys: .*serial"),
        ("[twin]", "[twin]\nspeed = 2", r"twin: unknown key speed"),
        ("control_hz = 10.0", "control_hz = \"10\"", r"control_hz: expected float, got '10'"),
        ("control_hz = 10.0", "control_hz = true", r"control_hz: expected float, got True"),
        ("control_hz = 10.0", "control_hz = -10.0", r"control_hz must be positive"),
        ("control_hz = 10.0", "control_hz = inf", r"control_hz must be positive"),
        ("control_hz = 10.0\n", "", r"my_rig\.toml: missing key control_hz"),
        ("width = 640", "width = 640.0", r"cameras\[0\]: width: expected int, got 640\.0"),
        ("width = 640", "width = 0", r"cameras\[0\]: width must be positive"),
        ("width = 640\n", "", r"cameras\[0\]: missing key width"),
        ("fps = 30.0", "fps = nan", r"cameras\[0\]: fps must be positive"),
        ("position = [1.02, 0.0, 0.74]", "position = 1.02", r"cameras\[0\]: position: expected a list, got 1\.02"),
        ("position = [1.02, 0.0, 0.74]", "position = [1.02, 0.0]", r"head: position must be 3 finite numbers"),
        ("position = [1.02, 0.0, 0.74]", "position = [1.02, \"a\", 0.0]", r"position\[1\]: expected float, got 'a'"),
        ("[0.241676, -0.664524, -0.664524, 0.241676]", "[0.0, 0.0, 0.0, 0.0]", r"head: quat_wxyz has length 0\.000"),
        ("name = \"front\"", "name = \"head\"", r"two cameras have the same name: head, head"),
        ("model = \"fr3\"", "model = \"ur5\"", r"no arm model 'ur5'; models: fr3"),
        ("model = \"fr3\"", "model = 3", r"arm: model: expected str, got 3"),
        ("home_q = [0.0, ", "home_q = [", r"home_q has 6 joints, fr3 has 7"),
        ("home_q = [0.0, ", "home_q = [180.0, ", r"home_q \(rad\) is outside the joint range of fr3: joint1"),
        ("speed_scale = 0.6", "speed_scale = 60", r"safety: speed_scale must be in \(0, 1\]"),
        ("command_latency_s = 0.01", "command_latency_s = -1", r"twin: command_latency_s must be zero or more"),
        ("[safety]", "[safety", r"is not TOML"),
    ],
)  # fmt: skip
def test_a_wrong_rig_file_is_refused_by_file_and_key(load: Callable[[str], Rig], old: str, new: str, message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        load(edited(old, new))
    assert "my_rig.toml" in str(caught.value)


def test_a_rig_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml does not exist; `armflow rig new"):
        load_rig(tmp_path / "nowhere.toml")


def test_a_camera_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="has no camera 'wrist'; it has: head, front"):
        load_rig().camera("wrist")


HARDWARE = (DEFAULT_RIG.parent / "fr3_realsense.toml").read_text()


def test_sections_of_devices_become_their_settings(load: Callable[[str], Rig]):
    realsense = "[cameras.realsense]\nlock_exposure = true"
    assert realsense in HARDWARE
    rig = load(HARDWARE.replace(realsense, '[cameras.opencv]\nsource = "scene.mp4"\n# '))
    assert rig.is_hardware and rig.franka is not None and rig.franka.host == "172.16.0.2"
    assert rig.cameras[0].opencv is not None and rig.cameras[0].opencv.source == Path("scene.mp4")
    assert rig.cameras[1].realsense is not None and rig.cameras[1].opencv is None
    rig = load(HARDWARE.replace(realsense, "[cameras.opencv]\nsource = 4\n# "))
    assert rig.cameras[0].opencv is not None and rig.cameras[0].opencv.source == 4
    assert not load(DEFAULT).is_hardware


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("speed_scale = 0.3 # f", "speed_scal = 0.3 # f", r"franka: unknown key speed_scal"),
        ("host = \"172.16.0.2\"", "", r"franka: missing key host"),
        ("[franka]", "[xarm]\nhost = \"1.2.3.4\"\n[franka]", r"one arm has one driver, there are sections franka, xarm"),
        ("[franka]", "[franka]\nstiffness = [1.0]", r"franka: stiffness must be 7 positive numbers"),
        ("[franka]", "[xarm]", r"xarm: unknown key collision_force_n, collision_torque_nm, realtime"),
        ("[cameras.realsense]\nlock", "[cameras.opencv]\nlock", r"cameras\[0\]: opencv: unknown key lock_exposure"),
        ("[cameras.realsense]\nlock_exposure = true", "", r"real cameras: give head a section \[cameras\.realsense\]"),
        ("serial = \"000000000000\"", "serial = \"\"", r"camera head: a realsense needs its serial"),
        ("serial = \"000000000000\"", "serial = \"000000000001\"", r"two cameras have the same serial"),
        ("[cameras.realsense]\nlock", "[cameras.opencv]\nsource = 0\n[cameras.realsense]\nlock", "not both"),
        ("[cameras.realsense]\nlock", "[cameras.opencv]\nsource = 1.5\n#", r"opencv: source: expected Path, got 1\.5"),
    ],
)  # fmt: skip
def test_a_wrong_section_of_a_device_is_refused(load: Callable[[str], Rig], old: str, new: str, message: str):
    assert old in HARDWARE
    with pytest.raises(ConfigError, match=message):
        load(HARDWARE.replace(old, new, 1))


def test_a_choice_is_one_of_those_that_there_are(load: Callable[[str], Rig]):
    xarm = HARDWARE.replace('model = "fr3"', 'model = "xarm7"').replace("[franka]", "[xarm]")
    lines = [line for line in xarm.splitlines() if not line.startswith(("collision_", "realtime"))]
    text = "\n".join(lines)
    text = re.sub(r"home_q = \[[^]]*\]", "home_q = [0.0, -0.3, 0.0, 0.9, 0.0, 1.2, 0.0]", text)
    rig = load(text.replace("[xarm]", '[xarm]\nmotion = "servo"'))
    assert rig.xarm is not None and rig.xarm.motion == "servo"
    with pytest.raises(ConfigError, match="motion: expected one of 'online', 'servo', got 'fast'"):
        load(text.replace("[xarm]", '[xarm]\nmotion = "fast"'))
    with pytest.raises(ConfigError, match=r"\[xarm\] drives xarm7, arm\.model is 'fr3'"):
        load("\n".join(lines).replace('model = "xarm7"', 'model = "fr3"'))


def test_integers_are_numbers_too(load: Callable[[str], Rig]):
    rig = load(edited("control_hz = 10.0", "control_hz = 10"))
    assert rig.control_hz == 10.0 and isinstance(rig.control_hz, float)


def _variations(value: Any) -> Iterator[Any]:
    """`value` with one field changed, for every field however deep."""
    for f in dataclasses.fields(value):
        old = getattr(value, f.name)
        if is_dataclass(old):
            yield from (replace(value, **{f.name: new}) for new in _variations(old))
        elif isinstance(old, tuple) and is_dataclass(old[0]):
            for i, item in enumerate(old):
                yield from (replace(value, **{f.name: (*old[:i], new, *old[i + 1 :])}) for new in _variations(item))
        elif isinstance(old, tuple):
            yield replace(value, **{f.name: (old[0] + 1e-6, *old[1:])})
        elif isinstance(old, str) and f.name != "model":  # there is one arm model
            yield replace(value, **{f.name: old + "x"})
        elif isinstance(old, float):
            yield replace(value, **{f.name: old + 1e-6 if math.isfinite(old) else 1.0})
        elif isinstance(old, int):
            yield replace(value, **{f.name: old + 1})


def test_the_hash_changes_with_any_field_and_with_nothing_else():
    rig = load_rig()
    variations = list(_variations(rig))
    assert len(variations) >= 40
    assert len({rig.hash, *(v.hash for v in variations)}) == len(variations) + 1
    assert load_rig().hash == rig.hash


@pytest.mark.parametrize(("width", "height"), [(640, 480), (128, 96), (224, 224), (1280, 720)])
def test_a_resized_camera_sees_the_same_points_at_the_same_place_of_its_image(width: int, height: int):
    """Measured from the image's corner: pixel centres are at half-integers."""
    full = load_rig().camera("head")
    small = full.resized(width, height)
    points = np.array([[0.4, 0.1, 0.0], [0.55, -0.2, 0.1], [0.5, 0.0, 0.3]])
    a, b = (project(points, c.spec().K, c.spec().X_BC) + 0.5 for c in (full, small))
    np.testing.assert_allclose(a / (full.width, full.height), b / (width, height), atol=1e-12)


def test_resizing_twice_is_resizing_once():
    camera = load_rig().camera("front")
    a, b = camera.resized(320, 240).resized(128, 96), camera.resized(128, 96)
    np.testing.assert_allclose(a.spec().K, b.spec().K)
    assert (a.width, a.height) == (b.width, b.height)
