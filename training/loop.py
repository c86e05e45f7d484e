"""The one training loop: SFT, RL token, critics, policy extraction and pretraining are stages that it runs."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import AveragedModel

from . import checkpoint
from .memory import keep_freed_memory

Metrics = dict[str, float]


class Stage(Protocol):
    """What differs between trainings. The batch of a step depends on `rng` alone, so a resumed run repeats itself."""

    name: str
    module: nn.Module  # what is trained: parameters with requires_grad

    def loss(self, rng: Generator) -> tuple[Tensor, Metrics]:
        """Draw a batch and return the loss and what to log."""
        ...

    def after_step(self) -> None:
        """Called after every optimiser step, for target networks."""
        ...

    def evaluate(self) -> Metrics:
        """Held-out metrics."""
        ...


@dataclass(frozen=True)
class TrainCfg:
    """How long and how fast to learn."""

    steps: int
    """Optimiser steps."""
    lr: float = 3e-4
    """Peak learning rate."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    final_lr: float = 0.1
    """Learning rate at the end of the cosine, relative to the peak."""
    weight_decay: float = 0.01
    """Of AdamW."""
    clip_norm: float = 1.0
    """Global gradient norm limit."""
    ema_rate: float = 0.0
    """Share of the new weights in each update of the averaged ones that are kept in the end; 0 keeps the last."""
    eval_every: int = 500
    """Steps between held-out scores."""
    save_every: int = 500
    """Steps between saves, from which an interrupted run goes on."""
    bf16: bool = False
    """Run the forward pass in bfloat16 (losses stay in fp32)."""
    seed: int = 0
    """Of weights, batches and noise."""


def train(stage: Stage, cfg: TrainCfg, out: Path) -> Metrics:
    """Train to `cfg.steps`, resuming from `out` if it was interrupted; returns the last held-out metrics.

    Writes metrics.jsonl as it goes. Leaves `stage.module` with the final (averaged) weights.
    """
    keep_freed_memory()
    out.mkdir(parents=True, exist_ok=True)
    # Precision is a stage's, but Accelerator would keep that of the process's first stage.
    accelerator = Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available())
    module = stage.module.to(accelerator.device)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=cfg.lr, weight_decay=cfg.weight_decay, betas=(0.9, 0.95))
    ema = AveragedModel(module, multi_avg_fn=_average(cfg.ema_rate)) if cfg.ema_rate else None
    start = checkpoint.load(out, module, optimiser, ema)
    _forget_after(out / "metrics.jsonl", start)
    held_out: Metrics = {}
    with (out / "metrics.jsonl").open("a") as log, _progress() as bar:
        task = bar.add_task(stage.name, total=cfg.steps, completed=start, note="")
        for step in range(start, cfg.steps):
            for group in optimiser.param_groups:
                group["lr"] = cfg.lr * schedule(step, cfg)
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=cfg.bf16):
                loss, metrics = stage.loss(step_rng(cfg.seed, step, accelerator.process_index))
            optimiser.zero_grad(set_to_none=True)
            accelerator.backward(loss)
            if accelerator.num_processes > 1:
                for p in parameters:
                    p.grad = accelerator.reduce(p.grad, reduction="mean")  # type: ignore[assignment]
            norm = float(nn.utils.clip_grad_norm_(parameters, cfg.clip_norm))
            optimiser.step()
            stage.after_step()
            if ema is not None:
                ema.update_parameters(module)
            done = step + 1
            bar.update(task, completed=done, note=f"loss {loss.item():.4f}")
            if done % 50 == 0 or done == cfg.steps:
                _write(log, {"step": done, "loss": loss.item(), "grad_norm": norm, **metrics})
            if done % cfg.eval_every == 0 or done == cfg.steps:
                held_out = _evaluate(stage, ema)
                _write(log, {"step": done, **held_out})
            if done % cfg.save_every == 0 or done == cfg.steps:
                checkpoint.save(out, module, optimiser, done, ema)
    if ema is not None:
        module.load_state_dict(ema.module.state_dict())
    return held_out or _evaluate(stage, None)


def schedule(step: int, cfg: TrainCfg) -> float:
    """Linear warm-up, then a cosine down to `final_lr`; relative to the peak."""
    if step < cfg.warmup_steps:
        return (step + 1) / cfg.warmup_steps
    progress = (step - cfg.warmup_steps) / max(cfg.steps - cfg.warmup_steps, 1)
    return cfg.final_lr + (1 - cfg.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def _average(ema_rate: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Exponential average that is a plain mean until it is as long as `ema_rate` says: no memory of the first weights."""

    @torch.no_grad()
    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], n_averaged: Tensor | int) -> None:
        weight = max(ema_rate, 1 / (float(n_averaged) + 1))
        for average, new in zip(averaged, current, strict=True):
            average.lerp_(new, weight)

    return update


def step_rng(seed: int, step: int, process: int = 0) -> Generator:
    """A generator that depends on nothing but seed, step and process."""
    return Generator().manual_seed((seed * 1_000_003 + step) * 64 + process)


def _evaluate(stage: Stage, ema: AveragedModel | None) -> Metrics:
    """Held-out metrics of the weights that would be kept."""
    if ema is None:
        return stage.evaluate()
    current = {k: v.clone() for k, v in stage.module.state_dict().items()}
    stage.module.load_state_dict(ema.module.state_dict())
    metrics = stage.evaluate()
    stage.module.load_state_dict(current)
    return metrics


def _forget_after(path: Path, step: int) -> None:
    """Drop rows of steps that will be taken again, and a last line cut short by the interruption."""
    if path.exists():
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        path.write_text("".join(kept))


def _write(log, row: Metrics) -> None:
    log.write(json.dumps({k: round(float(v), 6) for k, v in row.items()}) + "\n")
    log.flush()


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
