"""`armflow train ...`."""

from typing import Annotated

import tyro

from .stages.critic import CriticStageCfg, run_critic
from .stages.qvgm import QVGMStageCfg, run_qvgm
from .stages.rlt import RLTStageCfg, run_rlt
from .stages.sft import SFTCfg, run_sft
from .summary import show


def sft(cfg: Annotated[SFTCfg, tyro.conf.arg(name="")]) -> None:
    """Fine-tune the action expert on demonstrations, the vision-language prefix frozen."""
    show("sft", cfg.out, run_sft(cfg))


def rlt(cfg: Annotated[RLTStageCfg, tyro.conf.arg(name="")]) -> None:
    """Train the RL token: one vector that says what the frozen prefix said."""
    show("rlt", cfg.out, run_rlt(cfg))


def critic(cfg: Annotated[CriticStageCfg, tyro.conf.arg(name="")]) -> None:
    """Train the chunk critic on labelled rollouts, and hold its gates."""
    show("critic", cfg.out, run_critic(cfg))


def qvgm(cfg: Annotated[QVGMStageCfg, tyro.conf.arg(name="")]) -> None:
    """Improve a policy with Q-VGM, if the critic passed its gates."""
    show("qvgm", cfg.out, run_qvgm(cfg))


COMMANDS = {"sft": sft, "rlt": rlt, "critic": critic, "qvgm": qvgm}
