"""Colour and depth of a camera in one pass of MuJoCo's renderer."""

import cv2
import mujoco
import numpy as np
from numpy.typing import NDArray

from . import gl

BUFFER_WIDTH, BUFFER_HEIGHT = 1280, 960  # px, of the off-screen buffer to begin with; it grows when needed
SUPERSAMPLED_UP_TO = 160  # px: smaller images are rendered at twice the size, cheaper than multisampling


class SceneRenderer:
    """Renders one model. Not thread-safe; all renderers of a process share its GL context."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._gl = gl.context(BUFFER_WIDTH, BUFFER_HEIGHT)
        self._gl.make_current()
        model.vis.global_.offwidth, model.vis.global_.offheight = BUFFER_WIDTH, BUFFER_HEIGHT
        self._model = model
        self._mjr = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        # Far is zero: floating-point depth then has its precision where perspective needs it.
        self._mjr.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self._scene = mujoco.MjvScene(model, maxgeom=500)
        self._scene.flags[:] = 0  # no shadow, reflection, fog, haze or skybox
        self._option, self._perturb, self._camera = mujoco.MjvOption(), mujoco.MjvPerturb(), mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED

    def render(
        self, data: mujoco.MjData, camera: str, width: int, height: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """(h, w, 3) colour and (h, w) depth along the optical axis in m, seen by one of the model's cameras."""
        self._camera.fixedcamid = self._model.camera(camera).id
        return self.render_free(data, self._camera, width, height)

    def render_free(
        self, data: mujoco.MjData, camera: mujoco.MjvCamera, width: int, height: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """The same, from any point of view."""
        factor = 2 if width <= SUPERSAMPLED_UP_TO else 1
        rect = mujoco.MjrRect(0, 0, width * factor, height * factor)
        rgb = np.empty((height * factor, width * factor, 3), np.uint8)
        z = np.empty((height * factor, width * factor), np.float32)
        self._gl.make_current()
        self._make_room(rect)
        # Every time: another renderer of this process may have bound its own buffer in between.
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._mjr)
        mujoco.mjv_updateScene(
            self._model, data, self._option, self._perturb, camera, mujoco.mjtCatBit.mjCAT_ALL.value, self._scene
        )
        mujoco.mjr_render(rect, self._scene, self._mjr)
        mujoco.mjr_readPixels(rgb, z, rect, self._mjr)
        rgb, z = rgb[::-1], z[::-1]  # OpenGL rows run upwards
        if factor > 1:
            rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
            z = z[::factor, ::factor]
        return np.ascontiguousarray(rgb), self._metric(z)

    def _make_room(self, rect: mujoco.MjrRect) -> None:
        """Pixels outside the off-screen buffer would be read as garbage."""
        width, height = max(rect.width, self._mjr.offWidth), max(rect.height, self._mjr.offHeight)
        if (width, height) != (self._mjr.offWidth, self._mjr.offHeight):
            mujoco.mjr_resizeOffscreen(width, height, self._mjr)

    def _metric(self, z: NDArray[np.float32]) -> NDArray[np.float32]:
        """Undo the perspective division of the reversed depth buffer."""
        extent = self._model.stat.extent
        near, far = self._model.vis.map.znear * extent, self._model.vis.map.zfar * extent
        scale = near / (far - near)
        return np.float32(far * scale) / (z + np.float32(scale))

    def close(self) -> None:
        self._mjr.free()
