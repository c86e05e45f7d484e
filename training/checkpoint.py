"""Interrupted training goes on where it stopped: weights, optimiser and step in one safetensors file, replaced atomically."""

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..robot.errors import CheckpointError

FILE = "resume.safetensors"


def save(path: Path, module: nn.Module, optimiser: torch.optim.Optimizer, step: int, ema: nn.Module | None) -> None:
    """Write everything `load` needs into folder `path`."""
    tensors = {f"model.{k}": v for k, v in module.state_dict().items()}
    if ema is not None:
        tensors |= {f"ema.{k}": v for k, v in ema.state_dict().items()}
    state = optimiser.state_dict()
    for i, slots in state["state"].items():
        tensors |= {f"optimiser.{i}.{name}": torch.as_tensor(value) for name, value in slots.items()}
    part = path / f"{FILE}.part"
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, part, {"step": json.dumps(step)})
    os.replace(part, path / FILE)


def load(path: Path, module: nn.Module, optimiser: torch.optim.Optimizer, ema: nn.Module | None) -> int:
    """Restore from folder `path` and return the step to go on from; 0 when there is nothing to resume.

    Raises CheckpointError if the file is damaged or belongs to another network.
    """
    file = path / FILE
    if not file.exists():
        return 0
    try:
        with safe_open(file, framework="pt") as f:
            tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 - not a dict
            step = int(json.loads(f.metadata()["step"]))
        module.load_state_dict(_under(tensors, "model."))
        if ema is not None:
            ema.load_state_dict(_under(tensors, "ema."))
    except (SafetensorError, RuntimeError, KeyError, OSError) as error:
        raise CheckpointError(f"{file} cannot be resumed: {error}. Delete {path} to start this stage anew") from error
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in _under(tensors, "optimiser.").items():
        index, name = key.split(".", 1)
        slots.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    return step


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
