"""The twin: physics that follows a clock, a joint servo that follows commands, and frames as the cameras take them.

Nothing runs in the background. Whoever reads, commands or renders first lets the physics catch up with the clock, which
looks the same from outside as a simulation in its own thread; with a SimClock it runs as fast as it can.
"""

import math
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import mujoco
import numpy as np

from ..clock import Clock
from ..errors import DeviceFault
from ..rig import DESCRIPTIONS, Rig
from ..types import ArmCommand, Floats
from .arm_model import FINGERS, TCP_SITE

SETTLE_S = 0.3  # s of physics after a reset, so that objects rest on the table
SPARE_FRAMES = 7  # snapshots kept beyond the newest one that a camera may deliver
# MuJoCo answers these by resetting the state or the command; things would jump, so the episode has to end instead.
DIVERGED = (
    mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC,
    mujoco.mjtWarning.mjWARN_BADCTRL,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The world at the instant a camera exposed."""

    t: float
    frame_number: int
    qpos: Floats


class Twin:
    """One cell. `TwinArm` and `TwinCamera` are its devices; tasks look at `data` as an all-knowing observer.

    Its methods take `lock`, since an arm may be told to hold from any thread.
    """

    def __init__(self, rig: Rig, model: mujoco.MjModel, clock: Clock) -> None:
        self.rig, self.model, self.clock = rig, model, clock
        self.arm = DESCRIPTIONS[rig.arm.model]
        self.data = mujoco.MjData(model)
        self.lock = threading.RLock()
        self._dt = float(model.opt.timestep)
        self._arm_q = np.array([model.joint(n).qposadr[0] for n in self.arm.spec.joint_names])
        self._finger_q = np.array([model.joint(n).qposadr[0] for n in FINGERS])
        self._feed_forward = self.arm.damping / self.arm.stiffness
        rates = [c.fps for c in rig.cameras] or [1.0]
        self.camera_fps = max(rates)  # slower cameras skip some of these exposures
        self._camera_period = 1.0 / self.camera_fps
        self._pending: deque[tuple[float, ArmCommand]] = deque()
        oldest_s = rig.twin.camera_latency_s + 1.0 / min(rates)
        self.snapshots: deque[Snapshot] = deque(maxlen=math.ceil(oldest_s * self.camera_fps) + SPARE_FRAMES)
        self._t0 = clock.now()
        self.place({}, np.array(rig.arm.home_q))

    def place(self, objects: Mapping[str, Floats], q: Floats) -> None:
        """Put free bodies at poses [x y z qw qx qy qz] and the arm at `q`, gripper open; let things settle."""
        with self.lock:
            mujoco.mj_resetData(self.model, self.data)
            self.data.qpos[self._arm_q] = q
            self.data.qpos[self._finger_q] = self.arm.hand.travel
            for name, pose in objects.items():
                address = self.model.joint(name).qposadr[0]
                self.data.qpos[address : address + 7] = pose
            self._q_ref, self._q_goal, self._slope = q.copy(), q.copy(), np.zeros(self.arm.spec.dof)
            self._grip_ref = self._grip_goal = self.arm.hand.travel
            self._pending.clear()
            for _ in range(round(SETTLE_S / self._dt)):
                self._step()
            self._check_physics()
            self.data.time = 0.0
            self._t0 = self.clock.now()
            self.snapshots.clear()
            self._next_frame = 0
            self._expose()

    def sync(self) -> None:
        """Let the physics catch up with the clock. Raises DeviceFault if they diverge."""
        with self.lock:
            due = self.clock.now() - self._t0
            while self.data.time + 0.5 * self._dt < due:
                self._follow_commands()
                self._step()
                if self.data.time + 0.5 * self._dt >= self._next_frame * self._camera_period:
                    self._expose()
            self._check_physics()

    def send(self, cmd: ArmCommand) -> None:
        """Queue a command; the servo starts to follow it after the rig's command latency."""
        with self.lock:
            self.sync()
            self._pending.append((self.data.time + self.rig.twin.command_latency_s, cmd))

    def hold(self) -> None:
        """Drop queued commands and stay at the current reference; the fingers go on to where they were told to be."""
        with self.lock:
            try:
                self.sync()  # what was due before now has been executed
            finally:
                self._pending.clear()
                self._q_goal, self._slope = self._q_ref.copy(), np.zeros(self.arm.spec.dof)

    def joint_state(self) -> tuple[Floats, Floats, Floats, float]:
        """True q, dq, actuator torque (dof,) each, and gripper opening 0..1."""
        with self.lock:
            d, dof = self.data, self.arm.spec.dof
            opening = float(d.qpos[self._finger_q].sum()) / self.arm.spec.gripper_width_m
            return d.qpos[self._arm_q].copy(), d.qvel[:dof].copy(), d.actuator_force[:dof].copy(), opening

    def tcp(self) -> Floats:
        """(4, 4) true pose of the tool centre point."""
        site = self.data.site(TCP_SITE)
        X = np.eye(4)
        X[:3, :3], X[:3, 3] = site.xmat.reshape(3, 3), site.xpos
        return X

    def wall_time(self, sim_time: float) -> float:
        return self._t0 + sim_time

    def _follow_commands(self) -> None:
        while self._pending and self._pending[0][0] <= self.data.time + 0.5 * self._dt:
            _, cmd = self._pending.popleft()
            # First-order hold: reach the target when the next command is due.
            self._q_goal = cmd.q
            self._slope = (cmd.q - self._q_ref) * self.rig.control_hz
            self._grip_goal = cmd.gripper * self.arm.hand.travel

    def _step(self) -> None:
        step = self._slope * self._dt
        left = self._q_goal - self._q_ref
        arrived = np.abs(left) <= np.abs(step)
        self._q_ref = np.where(arrived, self._q_goal, self._q_ref + step)
        self._slope = np.where(arrived, 0.0, self._slope)
        grip_step = self.arm.hand.speed * self._dt
        self._grip_ref += min(max(self._grip_goal - self._grip_ref, -grip_step), grip_step)
        dof = self.arm.spec.dof
        self.data.ctrl[:dof] = self._q_ref + self._feed_forward * self._slope
        self.data.ctrl[dof:] = self._grip_ref
        mujoco.mj_step(self.model, self.data)

    def _check_physics(self) -> None:
        bad = [w.name for w in DIVERGED if self.data.warning[int(w)].number]
        if bad:
            raise DeviceFault(
                "twin", f"the physics diverged at {self.data.time:.3f} s ({', '.join(bad)}); reset the cell"
            )

    def _expose(self) -> None:
        self.snapshots.append(Snapshot(self.wall_time(self.data.time), self._next_frame, self.data.qpos.copy()))
        self._next_frame += 1
