"""From a folder to a policy, loudly."""

from pathlib import Path

from ...robot.errors import CheckpointError
from ..memory import keep_freed_memory
from .modeling_pi05_mini import PI05MiniPolicy

SHIPPED = Path(__file__).parent / "weights"
"""The pretrained weights that come with this package."""


def load_policy(path: Path) -> PI05MiniPolicy:
    """Policy in evaluation mode from a checkpoint folder, or from the folder of the stage that made it.

    Raises CheckpointError if there is none, it is truncated or of another kind; MissingStats if it has no statistics.
    """
    folder = path / "checkpoint" if (path / "checkpoint").is_dir() else path
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} is not a pi05_mini checkpoint: {name} is missing. "
                f"Give the output folder of `armflow train sft` or `armflow train qvgm`, or {SHIPPED.name} for the base"
            )
    keep_freed_memory()
    policy = PI05MiniPolicy.from_pretrained(folder)
    policy.state_norm.check()
    policy.action_norm.check()
    return policy
