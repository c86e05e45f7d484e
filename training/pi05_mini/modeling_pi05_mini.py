"""pi05-mini as a LeRobot policy and as an armflow FlowPolicy."""

from collections import deque
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

from ...robot.errors import CheckpointError, SchemaMismatch
from ..flow import flow_matching_loss, interpolate, sample, sample_time
from ..policy import Context, ObsBatch
from .configuration_pi05_mini import PI05MiniConfig
from .network import ActionExpert, Prefix
from .normaliser import QuantileNormaliser
from .processor_pi05_mini import make_pi05_mini_pre_post_processors
from .tokenizer import WordTokenizer


class PI05MiniPolicy(PreTrainedPolicy):
    """A small pi0.5: frozen-able vision-language prefix, flow-matching action expert.

    Actions are absolute joint targets outside and relative to the current state inside (gripper: absolute).
    """

    # LeRobot declares both as None, to be overridden.
    config_class = PI05MiniConfig  # pyright: ignore[reportAssignmentType]
    name = "pi05_mini"  # pyright: ignore[reportAssignmentType]
    config: PI05MiniConfig

    def __init__(self, config: PI05MiniConfig, **_: Any) -> None:
        super().__init__(config)
        network = config.network()
        self.prefix = Prefix(network)
        self.expert = ActionExpert(network)
        self.state_norm = QuantileNormaliser("observation.state", network.state_dim)
        self.action_norm = QuantileNormaliser("action", network.action_dim)
        self._tokenizer = WordTokenizer(config.vocabulary, config.max_words)
        self.chunk_size, self.n_action_steps = config.chunk_size, config.n_action_steps
        self.action_dim = self.real_dim = network.action_dim
        self._queue: deque[Tensor] = deque()

    # FlowPolicy

    def encode(self, obs: ObsBatch) -> Context:
        """Run the prefix. Images may have any size; cameras must include the policy's."""
        words, word_mask = self._tokenizer(obs.instructions)
        device = obs.state.device
        keys, values, tokens, mask = self.prefix(
            self._images(obs.images), words.to(device), word_mask.to(device), self.state_norm.normalise(obs.state)
        )
        return Context(keys, values, tokens, mask, obs.state)

    def velocity(self, ctx: Context, x: Tensor, t: Tensor) -> Tensor:
        return self.expert(ctx.keys, ctx.values, ctx.mask, x, t)

    def to_flow(self, actions: Tensor, state: Tensor) -> Tensor:
        self.action_norm.check()
        return self.action_norm.normalise(actions - self._reference(state))

    def from_flow(self, x: Tensor, state: Tensor) -> Tensor:
        self.action_norm.check()
        return self.action_norm.denormalise(x[..., : self.real_dim]) + self._reference(state)

    def _reference(self, state: Tensor) -> Tensor:
        """(b, 1, 8): what actions are relative to. Joints: where they are; gripper: zero, its command is absolute."""
        return torch.cat([state[:, :-1], torch.zeros_like(state[:, -1:])], dim=-1)[:, None]

    def _images(self, images: dict[str, Tensor]) -> Tensor:
        """(b, cams, 3, h, w) in [-1, 1] at the network's size."""
        missing = [c for c in self.config.cameras if c not in images]
        if missing:
            raise SchemaMismatch(f"the policy sees with {list(self.config.cameras)}; no image from {missing}, "
                                 f"only from {list(images)}. Check the rig's camera names")  # fmt: skip
        size = (self.config.image_height, self.config.image_width)
        stack = torch.stack([_resized(images[c], size) for c in self.config.cameras], dim=1)
        return stack / 127.5 - 1

    # LeRobot

    def get_optim_params(self) -> dict[str, Any]:
        return {"params": [p for p in self.parameters() if p.requires_grad]}

    def reset(self) -> None:
        self._queue.clear()

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        """Flow-matching loss on a LeRobot batch; padded steps (`action_is_pad`) do not count."""
        obs = self.obs_batch(batch)
        actions = self.to_flow(batch["action"], obs.state)
        pad = batch.get("action_is_pad", torch.zeros(actions.shape[:2], dtype=torch.bool))
        noise, t = torch.randn_like(actions), sample_time(len(actions), torch.default_generator).to(actions)
        v = self.velocity(self.encode(obs), interpolate(actions, noise, t), t)
        loss = flow_matching_loss(v, actions, noise, ~pad)
        return loss, {"loss": loss.item()}

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        """(b, chunk_size, 8) absolute actions. `noise` in flow space may be given."""
        obs = self.obs_batch(batch)
        noise = kwargs.get("noise")
        if noise is None:
            noise = torch.randn(len(obs.state), self.chunk_size, self.action_dim, device=obs.state.device)
        x = sample(self, self.encode(obs), noise, flow_steps=self.config.num_inference_steps)
        return self.from_flow(x, obs.state)

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        """(b, 8): the next of the `n_action_steps` actions of the current chunk."""
        if not self._queue:
            chunk = self.predict_action_chunk(batch, **kwargs)[:, : self.n_action_steps]
            self._queue.extend(chunk.unbind(dim=1))
        return self._queue.popleft()

    def obs_batch(self, batch: dict[str, Any]) -> ObsBatch:
        """LeRobot batch (images float in [0, 1] or uint8, `task` strings) -> ObsBatch."""
        images = {c: batch[k] for c in self.config.cameras if (k := f"observation.images.{c}") in batch}
        images = {c: x if x.dtype == torch.uint8 else x * 255 for c, x in images.items()}
        return ObsBatch(images, batch["observation.state"], list(batch["task"]))

    def _save_pretrained(self, save_directory: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """With the processors, which LeRobot's commands look for beside the weights."""
        super()._save_pretrained(save_directory, state_dict=state_dict)
        for processor in make_pi05_mini_pre_post_processors(self.config):
            processor.save_pretrained(save_directory)

    @classmethod
    def _load_as_safetensor[P: PreTrainedPolicy](cls, model: P, model_file: str, map_location: str, strict: bool) -> P:
        """LeRobot loads with strict=False and returns a random model when names do not match; here that is an error."""
        try:
            return super()._load_as_safetensor(model, model_file, map_location, strict=True)
        except (RuntimeError, OSError, ValueError) as error:
            raise _checkpoint_error(model_file, error) from error
        except Exception as error:  # safetensors raises its own type that derives from Exception only
            if type(error).__name__ != "SafetensorError":
                raise
            raise _checkpoint_error(model_file, error) from error


def _checkpoint_error(model_file: str, error: Exception) -> CheckpointError:
    size = Path(model_file).stat().st_size if Path(model_file).exists() else 0
    return CheckpointError(
        f"{model_file} ({size} bytes) is not a complete pi05_mini checkpoint: {error}. Copy it again, or train it anew"
    )


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(b, 3, h, w) any dtype -> float at `size`; area-averaged when it shrinks."""
    if tuple(image.shape[-2:]) == size:
        return image.float()
    return F.interpolate(image.float(), size, mode="bilinear", antialias=True)
