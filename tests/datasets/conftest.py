"""Synthetic episodes, recorded and committed as a session would do it."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from armflow.datasets.commit import commit_spool
from armflow.datasets.labels import EpisodeLabel
from armflow.datasets.schema import Schema
from armflow.datasets.spool import SpoolCfg, SpoolWriter
from armflow.datasets.synthetic import SyntheticCfg, synthetic_schema, synthetic_steps
from armflow.robot.control import Step

SUCCESS = EpisodeLabel("success", terminated=True)
TIMEOUT = EpisodeLabel("failure", terminated=False, failure_tag="dropped")

Record = Callable[..., Path]


@pytest.fixture
def cfg() -> SyntheticCfg:
    return SyntheticCfg()


@pytest.fixture
def schema(cfg: SyntheticCfg) -> Schema:
    return synthetic_schema(cfg)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def disk_of(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """disk_of(mb): a file system of that size of its own."""
    with ExitStack() as stack:

        def mounted(mb: int) -> Path:
            folder = tmp_path / "small"
            folder.mkdir()
            mount = ["mount", "-t", "tmpfs", "-o", f"size={mb}m", "tmpfs", folder]
            if subprocess.run(mount, capture_output=True, check=False).returncode:
                pytest.skip("cannot mount a small file system here (needs root)")
            stack.callback(subprocess.run, ["umount", "--lazy", folder], check=True)
            return folder

        yield mounted


@pytest.fixture
def small_disk(disk_of: Callable[[int], Path]) -> Path:
    return disk_of(3)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "dataset"


@pytest.fixture
def steps(cfg: SyntheticCfg) -> Callable[[int, int], list[Step]]:
    """steps(count, seed): the steps of an episode."""
    return lambda count, seed=0: list(synthetic_steps(count, cfg, np.random.default_rng(seed)))


@pytest.fixture
def record(spool: Path, schema: Schema, steps: Callable[[int, int], list[Step]]) -> Record:
    """record(count, seed, label, task): a finished spool file."""

    def _record(count: int = 11, seed: int = 0, label: EpisodeLabel = SUCCESS, task: str = "stack the bowls") -> Path:
        writer = SpoolWriter(spool, schema, task=task, seed=seed, cfg=SpoolCfg(sync=False))
        for step in steps(count, seed):
            writer.add(step)
        return writer.save(label)

    return _record


@pytest.fixture
def dataset(record: Record, spool: Path, root: Path) -> Path:
    """Three committed episodes: a success of 11 frames, a time-out of 8, a success of 9 on another task."""
    record(11, 0, SUCCESS)
    record(8, 1, TIMEOUT)
    record(9, 2, SUCCESS, "pick the peach")
    commit_spool(spool, root)
    return root
