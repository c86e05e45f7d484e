"""An agent as the policy of an episode, in the twin and on hardware alike: loaded, checked against the rig, and warm."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator

from ..datasets.schema import IMAGES
from ..robot.errors import SchemaMismatch
from ..robot.rig import ARMS, Rig
from ..robot.types import ArmState, Observation, RgbdFrame
from ..training.pi05_mini.configuration_pi05_mini import PI05MiniConfig
from ..training.stages.sft import weights_hash
from .agents import AnyAgent, load_cached
from .policy_source import PolicySource

SHAPE_TOLERANCE = 0.02  # relative, of an image's width to its height


@dataclass(frozen=True)
class AgentFactory:
    """PlannerFactory of `teleop`: rollouts, on their own or with a person."""

    agent: AnyAgent
    operator: str = "policy"

    @property
    def policy_hash(self) -> str:
        return weights_hash(self.agent.checkpoint)

    def prepare(self, rig: Rig) -> None:
        """Load the agent, check that it fits `rig`, and let it decide once for nothing: its first chunk takes seconds."""
        check_fit(load_cached(self.agent).policy.config, rig)
        self("", 0).next(blank_observation(rig))

    def __call__(self, instruction: str, seed: int) -> PolicySource:
        return agent_source(self.agent, instruction, seed)


def agent_source(agent: AnyAgent, instruction: str, seed: int) -> PolicySource:
    """The agent's noise depends on the seed alone: paired trials of two policies see the same noise."""
    torch.set_num_threads(1)  # workers share the cores among episodes, not within one
    loaded = load_cached(agent)
    return PolicySource(loaded.policy, loaded.sampler, instruction, Generator().manual_seed(seed))


def check_fit(policy: PI05MiniConfig, rig: Rig) -> None:
    """Raises SchemaMismatch if `rig` has another arm, another order of joints, another rate, other cameras or images of
    another shape than the policy was trained on. Their size may differ: the policy scales what it sees."""
    if policy.arm not in ("", rig.arm.model):
        raise SchemaMismatch(
            f"rig {rig.name}: its arm is a {rig.arm.model}, the policy was trained on a {policy.arm}, which reaches other "
            "places with the same joint angles. Take a policy that was trained on this arm"
        )
    names = ARMS[rig.arm.model].action_names
    if names != tuple(policy.action_names):
        raise SchemaMismatch(
            f"rig {rig.name}: its arm takes {', '.join(names)}; the policy was trained on {', '.join(policy.action_names)}. "
            "Take a policy that was trained on this arm"
        )
    if rig.control_hz != policy.fps:
        raise SchemaMismatch(
            f"rig {rig.name}: control_hz is {rig.control_hz:g}, the policy was trained at {policy.fps:g}; it would move the "
            "arm at another speed. Set control_hz to the policy's rate"
        )
    cameras = {camera.name: camera for camera in rig.cameras}
    if lacking := [name for name in policy.cameras if name not in cameras]:
        raise SchemaMismatch(
            f"rig {rig.name}: it has no camera {', '.join(lacking)}, with which the policy sees; it has "
            f"{', '.join(cameras) or 'none'}. Name the cameras as in the dataset that the policy was trained on"
        )
    for name in policy.cameras:
        (height, width), camera = _seen_in_training(policy, name), cameras[name]
        if abs(camera.width * height / (camera.height * width) - 1) > SHAPE_TOLERANCE:
            raise SchemaMismatch(
                f"rig {rig.name}: camera {name} gives {camera.width} x {camera.height}, the policy was trained on "
                f"{width} x {height}; it would see everything squeezed. Give the camera a width and height of that shape"
            )


def _seen_in_training(policy: PI05MiniConfig, camera: str) -> tuple[int, int]:
    """Height and width of a camera's images, px; the network's own for a policy that was never fine-tuned."""
    feature = (policy.input_features or {}).get(f"{IMAGES}{camera}")
    return (policy.image_height, policy.image_width) if feature is None else (feature.shape[1], feature.shape[2])


def blank_observation(rig: Rig) -> Observation:
    """The rig at its home pose, in the dark."""
    zeros = np.zeros(len(rig.arm.home_q))
    frames = {
        c.name: RgbdFrame(0.0, 0, np.zeros((c.height, c.width, 3), np.uint8), np.zeros((c.height, c.width), np.uint16))
        for c in rig.cameras
    }
    return Observation(0.0, ArmState(0.0, np.array(rig.arm.home_q), zeros, zeros, 1.0), frames)
