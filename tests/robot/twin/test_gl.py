"""Which OpenGL renders, and what a user reads when none does."""

import os
import subprocess
import sys

import pytest
from armflow.robot.errors import ConfigError, DeviceNotFound
from armflow.robot.twin import gl
from armflow.robot.twin.gl import choose_backend

RENDER = """
from armflow.robot.errors import ArmflowError
try:
    from armflow.robot.rig import load_rig
    from armflow.robot.twin.cell import Cell
    from armflow.robot.twin.tasks import get_task
    with Cell(load_rig().with_image_size(64, 48)) as cell:
        print("mean", cell.reset(get_task("pick_peach"), 0).cameras["head"].latest(max_age_s=1.0).rgb.mean())
except ArmflowError as error:
    print(type(error).__name__, error)
"""


def render(mujoco_gl: str | None) -> str:
    """What a fresh process prints that renders one image."""
    env = {k: v for k, v in os.environ.items() if k != "MUJOCO_GL"}
    if mujoco_gl is not None:
        env["MUJOCO_GL"] = mujoco_gl
    done = subprocess.run([sys.executable, "-c", RENDER], env=env, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def works(monkeypatch: pytest.MonkeyPatch, *backends: str, mujoco_gl: str | None = None) -> None:
    monkeypatch.setattr(gl, "_egl_works", lambda: "egl" in backends)
    monkeypatch.setattr(gl, "_osmesa_works", lambda: "osmesa" in backends)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    if mujoco_gl is not None:
        monkeypatch.setenv("MUJOCO_GL", mujoco_gl)


def test_without_a_wish_an_image_is_rendered_by_whatever_works():
    output = render(None)
    assert output.startswith("mean ")
    assert 30 < float(output.split()[1]) < 220


def test_a_backend_for_windows_is_refused_by_name_in_a_real_process():
    assert render("glfw").startswith("ConfigError MUJOCO_GL=glfw: images are rendered off-screen, by egl or osmesa")


def test_a_backend_that_does_not_exist_is_refused_by_name_in_a_real_process():
    assert "invalid value for environment variable MUJOCO_GL: directx" in render("directx")  # by MuJoCo, on import


def test_egl_comes_first_then_osmesa(monkeypatch: pytest.MonkeyPatch):
    works(monkeypatch, "egl", "osmesa")
    assert choose_backend() == "egl"
    works(monkeypatch, "osmesa")
    assert choose_backend() == "osmesa"
    works(monkeypatch, "egl", "osmesa", mujoco_gl="OSMesa")
    assert choose_backend() == "osmesa"
    works(monkeypatch, "egl", mujoco_gl="")
    assert choose_backend() == "egl"


def test_a_wish_is_never_replaced_by_something_else(monkeypatch: pytest.MonkeyPatch):
    works(monkeypatch, "egl", mujoco_gl="osmesa")
    with pytest.raises(DeviceNotFound, match=r"MUJOCO_GL=osmesa, but it does not work here; `apt-get install .*unset"):
        choose_backend()
    works(monkeypatch, "egl", mujoco_gl="glfw")
    with pytest.raises(ConfigError, match="by egl or osmesa"):
        choose_backend()


def test_where_nothing_works_the_packages_are_named(monkeypatch: pytest.MonkeyPatch):
    works(monkeypatch)
    with pytest.raises(DeviceNotFound, match=r"neither EGL nor OSMesa.*apt-get install libegl1.*libosmesa6"):
        choose_backend()
