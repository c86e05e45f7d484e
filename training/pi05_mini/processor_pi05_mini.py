"""LeRobot looks for a processor factory by name. Normalisation lives in the policy, so these only batch and move."""

from typing import Any

import torch
from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    PolicyAction,
    PolicyProcessorPipeline,
    RenameObservationsProcessorStep,
)
from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action
from lerobot.utils.constants import POLICY_POSTPROCESSOR_DEFAULT_NAME, POLICY_PREPROCESSOR_DEFAULT_NAME

from .configuration_pi05_mini import PI05MiniConfig


def make_pi05_mini_pre_post_processors(
    config: PI05MiniConfig, dataset_stats: dict[str, dict[str, torch.Tensor]] | None = None, **_: Any
) -> tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]], PolicyProcessorPipeline[PolicyAction, PolicyAction]
]:
    """`dataset_stats` is not used: the checkpoint carries the statistics it was trained with."""
    steps = [
        RenameObservationsProcessorStep(rename_map={}),
        AddBatchDimensionProcessorStep(),
        DeviceProcessorStep(device=config.device),
    ]
    pre = PolicyProcessorPipeline[dict[str, Any], dict[str, Any]](steps=steps, name=POLICY_PREPROCESSOR_DEFAULT_NAME)
    post = PolicyProcessorPipeline[PolicyAction, PolicyAction](
        steps=[DeviceProcessorStep(device="cpu")],
        name=POLICY_POSTPROCESSOR_DEFAULT_NAME,
        to_transition=policy_action_to_transition,
        to_output=transition_to_policy_action,
    )
    return pre, post
