"""The twin's arm and cameras, behind the same protocols as hardware."""

import math
from collections.abc import Callable

import mujoco
import numpy as np

from ..errors import StaleReading
from ..types import ArmCommand, ArmState, CameraSpec, RgbdFrame
from .depth_noise import stereo_depth_mm
from .render import SceneRenderer
from .sim import Snapshot, Twin


class TwinArm:
    """ArmDriver on the twin; measurements carry the rig's sensor noise."""

    def __init__(self, twin: Twin, rng: np.random.Generator) -> None:
        self.spec = twin.arm.spec
        self._twin, self._rng = twin, rng

    def read(self) -> ArmState:
        self._twin.sync()
        q, dq, effort, gripper = self._twin.joint_state()
        noise = self._twin.rig.twin
        return ArmState(
            t=self._twin.clock.now(),
            q=q + noise.q_noise_rad * self._rng.standard_normal(self.spec.dof),
            dq=dq + noise.dq_noise_rad_s * self._rng.standard_normal(self.spec.dof),
            effort=effort,
            gripper=gripper,
        )

    def command(self, cmd: ArmCommand) -> ArmCommand:
        sent = ArmCommand(cmd.q.copy(), cmd.gripper)  # the caller may use its array for something else
        self._twin.send(sent)
        return sent

    def hold(self) -> None:
        self._twin.hold()


class TwinCamera:
    """Camera on the twin: exposes at its own rate, delivers after the rig's latency, repeats a frame if asked early."""

    def __init__(
        self, twin: Twin, spec: CameraSpec, renderer: Callable[[], SceneRenderer], rng: np.random.Generator
    ) -> None:
        self.spec = spec
        self._twin, self._renderer, self._rng = twin, renderer, rng
        self._data = mujoco.MjData(twin.model)
        mujoco.mj_forward(twin.model, self._data)
        self._last: RgbdFrame | None = None

    def latest(self, *, max_age_s: float) -> RgbdFrame:
        with self._twin.lock:
            self._twin.sync()
            now, latency = self._twin.clock.now(), self._twin.rig.twin.camera_latency_s
            exposed = [s for s in self._twin.snapshots if self._exposes(s)]
        newest = next((s for s in reversed(exposed) if s.t + latency <= now + 1e-9), exposed[0])
        number = self._count(newest.frame_number)
        if now - newest.t > max_age_s:
            raise StaleReading(self.spec.name, f"newest frame is {now - newest.t:.2f} s old, allowed is {max_age_s} s")
        if self._last is None or (self._last.t, self._last.frame_number) != (newest.t, number):
            self._data.qpos[:] = newest.qpos
            mujoco.mj_kinematics(self._twin.model, self._data)
            mujoco.mj_camlight(self._twin.model, self._data)
            rgb, depth = self._renderer().render(self._data, self.spec.name, self.spec.width, self.spec.height)
            sigma = self._twin.rig.twin.depth_noise_px
            depth_mm = stereo_depth_mm(depth, float(self.spec.K[0, 0]), sigma, self._rng)
            self._last = RgbdFrame(newest.t, number, rgb, depth_mm)
        return self._last

    def _count(self, exposure: int) -> int:
        """Frames this camera has taken up to an exposure of the twin."""
        return math.floor(exposure * self.spec.fps / self._twin.camera_fps + 1e-9)

    def _exposes(self, snapshot: Snapshot) -> bool:
        exposure = snapshot.frame_number
        return exposure == 0 or self._count(exposure) > self._count(exposure - 1)

    def forget(self) -> None:
        """Drop the delivered frame, so that the next call renders again."""
        self._last = None
