"""The training loop resumes exactly, keeps averaged weights, and refuses to mix runs."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from armflow.robot.errors import CheckpointError, ConfigError
from armflow.training import run
from armflow.training.loop import Metrics, TrainCfg, schedule, step_rng, train
from torch import Generator, Tensor, nn

CFG = TrainCfg(steps=8, lr=0.05, warmup_steps=2, save_every=1, eval_every=4, ema_rate=0.5)


class Regression:
    """Fit y = 3 x with a batch that depends on the step's generator alone."""

    name = "regression"

    def __init__(self, die_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.module: nn.Module = nn.Linear(2, 1)
        self._die_at, self._steps = die_at, 0

    def loss(self, rng: Generator) -> tuple[Tensor, Metrics]:
        if self._steps == self._die_at:
            raise KeyboardInterrupt
        self._steps += 1
        x = torch.randn(16, 2, generator=rng)
        loss = (self.module(x) - 3 * x.sum(-1, keepdim=True)).square().mean()
        return loss, {"x": float(x.mean())}

    def after_step(self) -> None:
        pass

    def evaluate(self) -> Metrics:
        return {"held_out/weight": float(next(self.module.parameters()).detach().mean())}


def _weights(stage: Regression) -> dict[str, Tensor]:
    return stage.module.state_dict()


def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = Regression()
    train(whole, CFG, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(Regression(die_at=5), CFG, tmp_path / "parts")
    resumed = Regression()
    train(resumed, CFG, tmp_path / "parts")
    for name, value in _weights(whole).items():
        assert torch.equal(value, _weights(resumed)[name]), name


def test_steps_taken_again_are_in_the_metrics_once(tmp_path: Path) -> None:
    cfg = replace(CFG, save_every=3, eval_every=2)
    with pytest.raises(KeyboardInterrupt):
        train(Regression(die_at=5), cfg, tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 5, "lo')  # killed in the middle of a line
    train(Regression(), cfg, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "held_out/weight" in row] == [2, 4, 6, 8]


def test_the_averaged_weights_are_kept_and_scored(tmp_path: Path) -> None:
    averaged, last = Regression(), Regression()
    metrics = train(averaged, CFG, tmp_path / "a")
    train(last, replace(CFG, ema_rate=0.0), tmp_path / "b")
    assert not torch.equal(_weights(averaged)["weight"], _weights(last)["weight"])
    assert metrics["held_out/weight"] == pytest.approx(float(_weights(averaged)["weight"].mean()))


def test_stages_of_one_process_have_their_own_precision(tmp_path: Path) -> None:
    train(Regression(), CFG, tmp_path / "full")
    train(Regression(), replace(CFG, bf16=True), tmp_path / "half")
    train(Regression(), CFG, tmp_path / "full again")
    full, half, again = ((tmp_path / n / "metrics.jsonl").read_text() for n in ("full", "half", "full again"))
    assert full == again != half


def test_a_damaged_resume_file_is_named(tmp_path: Path) -> None:
    train(Regression(), replace(CFG, steps=2), tmp_path)
    with (tmp_path / "resume.safetensors").open("r+b") as file:
        file.truncate(40)
    with pytest.raises(CheckpointError, match="cannot be resumed"):
        train(Regression(), CFG, tmp_path)


def test_metrics_are_written_while_training(tmp_path: Path) -> None:
    train(Regression(), CFG, tmp_path)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [4, 8, 8]


def test_the_learning_rate_warms_up_and_ends_low() -> None:
    cfg = TrainCfg(steps=100, warmup_steps=10, final_lr=0.1)
    rates = [schedule(i, cfg) for i in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)


def test_generators_of_different_steps_seeds_and_processes_differ() -> None:
    draws = {float(torch.rand(1, generator=step_rng(s, i, p))) for s in range(3) for i in range(3) for p in range(3)}
    assert len(draws) == 27


@dataclass(frozen=True)
class _Cfg:
    lr: float = 0.1


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    assert not run.begin(tmp_path, "sft", _Cfg(), {"data": "a"})
    assert not run.begin(tmp_path, "sft", _Cfg(), {"data": "a"})  # unfinished: resume
    with pytest.raises(ConfigError, match="config.lr: 0.1 there, 0.2 asked for"):
        run.begin(tmp_path, "sft", _Cfg(lr=0.2), {"data": "a"})
    with pytest.raises(ConfigError, match="inputs.data"):
        run.begin(tmp_path, "sft", _Cfg(), {"data": "b"})
    run.finish(tmp_path, {"loss": 1.0})
    assert run.begin(tmp_path, "sft", _Cfg(), {"data": "a"})
    assert run.read_manifest(tmp_path)["metrics"] == {"loss": 1.0}


def test_an_unfinished_stage_has_no_manifest(tmp_path: Path) -> None:
    run.begin(tmp_path, "sft", _Cfg(), {})
    with pytest.raises(CheckpointError, match="not a finished stage"):
        run.read_manifest(tmp_path)
