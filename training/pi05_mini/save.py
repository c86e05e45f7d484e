"""Half-precision checkpoints, for weights that ship with the package."""

from pathlib import Path

from .modeling_pi05_mini import PI05MiniPolicy

FULL_PRECISION = ("_norm.q", "running_")  # statistics: their error would be everybody's


def save_half(policy: PI05MiniPolicy, folder: Path) -> None:
    """Write config and weights, parameters as float16. The policy in memory gets the rounded weights, too."""
    state = policy.state_dict()
    half = {
        name: value.half() if value.is_floating_point() and not any(part in name for part in FULL_PRECISION) else value
        for name, value in state.items()
    }
    policy.load_state_dict({name: value.to(state[name].dtype) for name, value in half.items()})
    folder.mkdir(parents=True, exist_ok=True)
    policy.save_pretrained(folder, state_dict={k: v.contiguous() for k, v in half.items()})
