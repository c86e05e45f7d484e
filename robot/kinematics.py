"""Forward and differential inverse kinematics of the arm, through mink on the arm-only MuJoCo model."""

import mink
import mujoco
import numpy as np

from .geometry import pose
from .models import arm_model
from .rig import ArmCfg
from .types import Floats

POSITION_COST, ORIENTATION_COST = 1.0, 0.5  # 1 m of position error weighs as 2 rad of rotation
POSTURE_COST = 1e-3  # only resolves the redundant elbow
LM_DAMPING = 1e-3
MAX_STEP_RAD = 0.15  # per iteration, on the joint that moves most
LIMIT_MARGIN_RAD = 0.06  # inside the safety filter's joint margin, so that IK and filter never fight


class Kinematics:
    """Joint vectors (dof,) rad in, tool poses X_BE (4, 4) out, and back."""

    def __init__(self, arm: ArmCfg) -> None:
        """A redundant elbow is drawn to the home pose. Raises ConfigError if armflow has no model of the arm."""
        found = arm_model(arm)
        self._model, self._site = found.spec.compile(), found.tool
        self._configuration = mink.Configuration(self._model)
        self._tcp = mink.FrameTask(self._site, "site", POSITION_COST, ORIENTATION_COST, lm_damping=LM_DAMPING)
        self._posture = mink.PostureTask(self._model, POSTURE_COST)
        self._posture.set_target(np.array(arm.home_q))
        self._limits = [mink.ConfigurationLimit(self._model, min_distance_from_limits=LIMIT_MARGIN_RAD)]

    def forward(self, q: Floats) -> Floats:
        """X_BE of joint vector `q`."""
        self._configuration.update(q)
        site = self._configuration.data.site(self._site)
        return pose(site.xpos, site.xmat.reshape(3, 3))

    def shift(self, q: Floats, offset_m: Floats) -> Floats:
        """(dof,) rad: to first order the smallest joint motion from `q` that moves the tool by `offset_m` (3,) in base axes
        without turning it."""
        self._configuration.update(q)
        jacobian = np.zeros((6, len(q)))
        site = self._model.site(self._site).id
        mujoco.mj_jacSite(self._model, self._configuration.data, jacobian[:3], jacobian[3:], site)
        motion = np.linalg.lstsq(jacobian, np.concatenate([offset_m, np.zeros(3)]), rcond=1e-2)[0]
        return np.asarray(motion, dtype=np.float64)

    def inverse(self, X_BE: Floats, q: Floats, *, iterations: int = 8) -> Floats:
        """Joint vector near `q` whose tool pose is closest to `X_BE` inside the joint limits.

        A few Gauss-Newton steps: exact for the small moves of one control period, otherwise one step on the way.
        """
        self._configuration.update(q)
        self._tcp.set_target(mink.SE3.from_matrix(X_BE))
        for _ in range(iterations):
            error = self._tcp.compute_error(self._configuration)
            if np.abs(error).max() < 1e-5:
                break
            velocity = mink.solve_ik(
                self._configuration, [self._tcp, self._posture], dt=1.0, solver="daqp", limits=self._limits
            )
            # Far from the target an unbounded step can jump to another branch of solutions.
            step = velocity * min(1.0, MAX_STEP_RAD / max(float(np.abs(velocity).max()), 1e-9))
            self._configuration.integrate_inplace(step, 1.0)
        return self._configuration.q.copy()
