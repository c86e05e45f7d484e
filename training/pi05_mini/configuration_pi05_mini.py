"""LeRobot configuration of pi05-mini (policy type `pi05_mini`)."""

from dataclasses import dataclass, field

from lerobot.configs import PreTrainedConfig
from lerobot.optim import AdamWConfig, OptimizerConfig

from .network import NetworkCfg


@PreTrainedConfig.register_subclass("pi05_mini")
@dataclass
class PI05MiniConfig(PreTrainedConfig):
    """Everything needed to rebuild the network around the weights; saved as config.json beside them."""

    chunk_size: int = 16
    n_action_steps: int = 8
    num_inference_steps: int = 10
    cameras: tuple[str, ...] = ("head", "front")
    image_height: int = 96
    image_width: int = 128
    action_names: tuple[str, ...] = tuple([*(f"joint{i}.pos" for i in range(1, 8)), "gripper.pos"])
    arm: str = ""  # whose demonstrations it was fine-tuned on; many arms name their joints alike
    fps: float = 10.0
    vocabulary: list[str] = field(default_factory=lambda: ["<pad>", "<unk>"])
    max_words: int = 14

    push_to_hub: bool = False  # type: ignore[assignment]

    def network(self) -> NetworkCfg:
        return NetworkCfg(
            n_cameras=len(self.cameras),
            image_height=self.image_height,
            image_width=self.image_width,
            vocabulary_size=len(self.vocabulary),
            max_words=self.max_words,
            state_dim=len(self.action_names),
            action_dim=len(self.action_names),
            chunk_size=self.chunk_size,
        )

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> list[int]:
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        return None

    def get_optimizer_preset(self) -> OptimizerConfig:
        return AdamWConfig(lr=3e-4, betas=(0.9, 0.95), weight_decay=0.01, grad_clip_norm=1.0)

    def get_scheduler_preset(self) -> None:
        return None

    def validate_features(self) -> None:
        missing = [
            c for c in self.cameras if self.input_features and f"observation.images.{c}" not in self.input_features
        ]
        if missing:
            raise ValueError(f"pi05_mini needs cameras {list(self.cameras)}; the input features lack {missing}")
