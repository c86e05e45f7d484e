"""What a session uses to record: one spool file per episode, and a process that commits them while the arm works on."""

import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from ..robot.control import Step
from ..robot.errors import DataError
from .labels import EpisodeLabel
from .layout import read_info
from .schema import Schema, check_compatible, schema_from_info
from .spool import SpoolCfg, SpoolWriter
from .spool_blocks import BlockPool


@dataclass(frozen=True)
class RecorderCfg:
    """Where and how a session records."""

    spool_dir: Path
    """Episodes before they are committed; on a local disk with room for a session."""
    dataset_root: Path
    """The LeRobot dataset they are appended to."""
    spool: SpoolCfg = field(default_factory=SpoolCfg)


class Recorder:
    """Records episode after episode and commits them in the background. Use as a context manager and as a sink.

        with Recorder(cfg, schema, rig_hash=rig.hash) as recorder:
            recorder.start("put the peach into the bowl", seed=7)
            result = run_episode(..., sinks=(recorder,))
            recorder.save(EpisodeLabel("success", terminated=True, loop=result.stats))

    Leaving the context waits until everything is committed.
    """

    def __init__(
        self,
        cfg: RecorderCfg,
        schema: Schema,
        *,
        rig_hash: str = "",
        calibration: Mapping[str, str] | None = None,
    ) -> None:
        """`calibration`: camera name -> JSON text. Raises SchemaMismatch if the dataset was recorded differently."""
        info = read_info(cfg.dataset_root)
        if info is not None:
            check_compatible(schema_from_info(info), schema)
        self._cfg, self._schema = cfg, schema
        self._rig_hash, self._calibration = rig_hash, dict(calibration or {})
        self._pool = BlockPool(schema, cfg.spool.flush_every)
        self._writer: SpoolWriter | None = None
        self._commit: CommitProcess | None = None

    def __enter__(self) -> Self:
        self._commit = CommitProcess(self._cfg.spool_dir, self._cfg.dataset_root, sync=self._cfg.spool.sync)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.abort("the session ended" if error is None else f"{type(error).__name__}: {error}")
        if self._commit is not None:
            self._commit.stop()

    def start(self, task: str, *, seed: int | None = None, policy_hash: str = "") -> None:
        """Begin an episode. Raises DataError if the last one is neither saved nor discarded, or committing failed."""
        if self._writer is not None:
            raise DataError("the last episode has no label yet; call save or discard before the next start")
        if self._commit is not None:
            self._commit.check()
        self._writer = SpoolWriter(
            self._cfg.spool_dir,
            self._schema,
            task=task,
            seed=seed,
            rig_hash=self._rig_hash,
            policy_hash=policy_hash,
            calibration=self._calibration,
            cfg=self._cfg.spool,
            pool=self._pool,
        )

    def add(self, step: Step) -> None:
        self._current().add(step)

    def abort(self, reason: str) -> None:
        """The episode failed; what was recorded stays recoverable, and the next one can start."""
        if self._writer is not None:
            self._writer.abort(reason)
            self._writer = None

    def save(self, label: EpisodeLabel) -> Path:
        """Finish the episode; it is durable when this returns. Returns its spool file."""
        path = self._current().save(label)
        self._writer = None
        return path

    def discard(self, reason: str) -> Path:
        """Finish an episode that shall not enter the dataset. Returns the file it stays in."""
        path = self._current().discard(reason)
        self._writer = None
        return path

    def _current(self) -> SpoolWriter:
        if self._writer is None:
            raise DataError("no episode is being recorded; call start first")
        return self._writer


class CommitProcess:
    """`commit_spool(..., follow=True)` in a process of its own, until `stop` or until this process dies."""

    def __init__(self, spool_dir: Path, dataset_root: Path, *, sync: bool = True) -> None:
        spool_dir.mkdir(parents=True, exist_ok=True)
        self._log = spool_dir / "commit.log"
        options = ["--follow"] if sync else ["--follow", "--no-sync"]
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "armflow.datasets.commit", str(spool_dir), str(dataset_root), *options],
                stdin=subprocess.PIPE,  # a line or its end tells the process to finish, also when we are killed
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the session; what was saved is still committed
            )

    def check(self) -> None:
        """Raise DataError if the process has died: nothing is lost, but nothing is committed either."""
        if self._process.poll() is not None:
            raise DataError(self._report())

    def stop(self) -> None:
        """Commit what waits, then end. Raises DataError if that failed."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with suppress(BrokenPipeError):  # it has ended already; its status says why
                self._process.stdin.write(b"stop\n")  # the end of the pipe may be held open by a forked worker
                self._process.stdin.close()
        if self._process.wait() != 0:
            raise DataError(self._report())

    def _report(self) -> str:
        text = self._log.read_text(encoding="utf-8").strip() or f"exit status {self._process.returncode}"
        return f"committing stopped: {text}\nThe recordings are kept in {self._log.parent}; fix the cause and commit them again."
