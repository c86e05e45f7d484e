"""One off-screen OpenGL context per process, on EGL or OSMesa, whichever works."""

import ctypes
import os
from functools import cache
from typing import Any

from ..errors import ConfigError, DeviceNotFound

EGL_PLATFORM_DEVICE = 0x313F
MAX_EGL_DEVICES = 8
PACKAGES = "`apt-get install libegl1 libgl1-mesa-dri` (or `libosmesa6`)"


@cache
def context(max_width: int, max_height: int) -> Any:
    """Make the process's GL context current and return it. MUJOCO_GL=egl|osmesa overrides the choice.

    Raises DeviceNotFound, naming the packages to install, when no backend works.
    """
    backend = choose_backend()
    if backend == "egl":
        from mujoco.egl import GLContext
    else:
        from mujoco.osmesa import GLContext
    gl = GLContext(max_width, max_height)
    gl.make_current()
    return gl


def choose_backend() -> str:
    """'egl' or 'osmesa': the user's MUJOCO_GL, else the first that works.

    Raises ConfigError if MUJOCO_GL names something else, DeviceNotFound if what it names or, without it, nothing works.
    """
    works = {"egl": _egl_works, "osmesa": _osmesa_works}
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    if wanted and wanted not in works:
        raise ConfigError(f"MUJOCO_GL={wanted}: images are rendered off-screen, by {' or '.join(works)}; unset it")
    if wanted:
        if not works[wanted]():
            raise DeviceNotFound("renderer", f"MUJOCO_GL={wanted}, but it does not work here; {PACKAGES} or unset it")
        return wanted
    for backend, probe in works.items():
        if probe():
            return backend
    raise DeviceNotFound(
        "renderer", f"neither EGL nor OSMesa works here. On Debian or Ubuntu: {PACKAGES}, then try again"
    )


def _egl_works() -> bool:
    """Whether some EGL device initialises. Through ctypes: a failed PyOpenGL import would spoil the other backend."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    query = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    display = egl.eglGetProcAddress(b"eglGetPlatformDisplayEXT")
    if not query or not display:
        return False
    query_devices = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(query)
    get_display = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p)(display)
    devices, count = (ctypes.c_void_p * MAX_EGL_DEVICES)(), ctypes.c_int()
    if not query_devices(MAX_EGL_DEVICES, devices, ctypes.byref(count)):
        return False
    egl.eglInitialize.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    for device in devices[: count.value]:
        found = get_display(EGL_PLATFORM_DEVICE, device, None)
        if found and egl.eglInitialize(found, None, None):
            return True
    return False


def _osmesa_works() -> bool:
    for name in ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False
