"""Recording an episode: a sink of the control loop that never makes it wait for the disk.

`add` copies a step into memory; a thread writes blocks of steps to the spool file and flushes them. `save` returns
when the episode is durable: label written, file synced, renamed from `*.part.h5` to `*.h5`.
"""

import errno
import os
import queue
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..robot.control import Step
from ..robot.errors import DataError
from .labels import EpisodeLabel
from .layout import sync_file, sync_folder
from .schema import Schema
from .spool_blocks import Block, BlockPool, fill
from .spool_file import (
    DISCARDED_SUFFIX,
    PART_SUFFIX,
    SAVED_SUFFIX,
    SpoolFile,
    SpoolHeader,
    completed_label,
    lock_recording,
)

SLACK_BYTES = 1_000_000  # reserved beyond the frames: HDF5's tables, the label, closing the file


@dataclass(frozen=True)
class SpoolCfg:
    """How an episode is written to disk."""

    flush_every: int = 8
    """Steps between flushes: at most twice as many are lost when the process is killed."""
    max_pending_mb: float = 1024.0
    """Memory for steps the disk has not taken yet; more means the disk is too slow, and recording stops."""
    sync: bool = True
    """Write through to the disk with every flush, and wait for it in `save`. False survives a kill but not a power cut: for
    a twin, which can be run again."""


class SpoolWriter:
    """Records one episode into `folder`. Use as a sink of `run_episode`, then call `save` or `discard`."""

    def __init__(
        self,
        folder: Path,
        schema: Schema,
        *,
        task: str,
        seed: int | None = None,
        rig_hash: str = "",
        policy_hash: str = "",
        calibration: Mapping[str, str] | None = None,
        cfg: SpoolCfg | None = None,
        pool: BlockPool | None = None,
    ) -> None:
        """`calibration`: camera name -> JSON text. `pool`: memory to share with the episodes before and after.

        Raises DataError if the folder cannot be written.
        """
        now = datetime.now(UTC)
        self._cfg = cfg or SpoolCfg()
        self._schema = schema
        self._header = SpoolHeader(
            # Sorts by time of recording; unique also among processes that record into one folder.
            episode_id=f"{now:%Y%m%dT%H%M%S%f}-{secrets.token_hex(3)}",
            started=now.isoformat(),
            schema=schema,
            task=task,
            seed=seed,
            rig_hash=rig_hash,
            policy_hash=policy_hash,
            calibration=dict(calibration or {}),
        )
        self.path = folder / f"{self._header.episode_id}{PART_SUFFIX}"
        self._pool = pool or BlockPool(schema, self._cfg.flush_every)
        self._filling = self._pool.take()
        self._count = 0
        self._closed = False
        self._failure: DataError | None = None
        self._pending: queue.SimpleQueue[tuple[Block, int] | None] = queue.SimpleQueue()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if free_bytes(folder) < self._needed_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._file = SpoolFile(self.path, self._header, self._cfg.flush_every)
            self._lock = lock_recording(self.path)
        except OSError as error:
            raise self._explained(error) from error
        self._appended: queue.SimpleQueue[bool] = queue.SimpleQueue()  # False: nothing more will be
        work = (self._write_blocks, self._write_through) if self._cfg.sync else (self._write_blocks,)
        self._threads = [threading.Thread(target=w, name=f"spool {self.path.name}", daemon=True) for w in work]
        for thread in self._threads:
            thread.start()

    @property
    def episode_id(self) -> str:
        return self._header.episode_id

    def __len__(self) -> int:
        """Steps added so far."""
        return self._count

    def add(self, step: Step) -> None:
        """Record one step. Raises DataError if the disk is full or too slow; the steps before stay recoverable."""
        self._check_recording()
        slot = self._count % self._cfg.flush_every
        fill(self._filling, slot, step, self._schema)
        self._count += 1
        if slot == self._cfg.flush_every - 1:
            self._pending.put((self._filling, self._cfg.flush_every))
            self._filling = self._pool.take()
            self._check_disk_keeps_up()

    def save(self, label: EpisodeLabel) -> Path:
        """Finish the episode; it is durable when this returns. What `label` leaves open is taken from the constructor.

        Returns the finished file; with the outcome "discarded" it stays out of the dataset, as after `discard`. Raises
        DataError if nothing was recorded or the disk is full (what was written stays recoverable).
        """
        self._check_recording()
        if self._count == 0:
            raise DataError(f"{self.path}: the episode has no steps; call abort instead of save")
        suffix = DISCARDED_SUFFIX if label.outcome == "discarded" else SAVED_SUFFIX
        return self._finish({"label": completed_label(label, self._header).to_dict()}, suffix)

    def discard(self, reason: str) -> Path:
        """Finish an episode that shall not enter the dataset; it stays beside the others as `*.discarded.h5`."""
        self._check_recording()
        return self._finish({"aborted": reason}, DISCARDED_SUFFIX)

    def abort(self, reason: str) -> None:
        """The episode failed: what was recorded stays as `*.part.h5`, for `recover_spool`. Idempotent, never raises."""
        if self._closed:
            return
        self._drain()
        try:
            self._file.write_outcome({"aborted": reason})
        except (OSError, RuntimeError):  # most likely the full disk that was the reason to abort
            pass
        self._close()
        if self._file.length == 0:
            self.path.unlink(missing_ok=True)

    def _finish(self, outcome: Mapping[str, Any], suffix: str) -> Path:
        self._drain()
        final = self.path.with_name(self._header.episode_id + suffix)
        try:
            if self._failure is not None:
                raise self._failure
            self._file.write_outcome(outcome)
            self._file.close()
            if self._cfg.sync:
                sync_file(self.path)
            os.rename(self.path, final)
            if self._cfg.sync:
                sync_folder(final.parent)
        except (OSError, RuntimeError) as error:
            raise self._explained(error) from error
        finally:
            self._close()
        return final

    def _drain(self) -> None:
        """Write what is in memory and end the threads."""
        self._closed = True
        if count := self._count % self._cfg.flush_every:
            self._pending.put((self._filling, count))
        else:
            self._pool.give_back(self._filling)
        self._pending.put(None)
        for thread in self._threads:
            thread.join()

    def _close(self) -> None:
        try:
            self._file.close()
        except (OSError, RuntimeError):  # nothing more can be written; what was flushed is in the file
            pass
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _write_blocks(self) -> None:
        while (item := self._pending.get()) is not None:
            block, count = item
            try:
                if self._failure is None:
                    self._file.reserve(self._needed_bytes)
                    self._file.append(block, count)
                    self._appended.put(True)
            except (OSError, RuntimeError) as error:  # h5py raises either when a write fails
                self._failure = self._explained(error)
            self._pool.give_back(block)
        self._appended.put(False)

    def _write_through(self) -> None:
        """Have the disk take the file while it grows: what it has not taken, `save` waits for, and a minute of two
        640x480 RGB-D cameras at 30 Hz is 5 GB. A thread of its own, since a busy disk must not hold up the writing."""
        while self._appended.get():
            try:
                self._file.sync()
            except OSError as error:
                self._failure = self._explained(error)

    def _check_recording(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise DataError(f"{self.path}: this episode is finished; start another SpoolWriter for the next one")

    def _check_disk_keeps_up(self) -> None:
        if self._pool.in_use_mb > self._cfg.max_pending_mb:
            raise DataError(
                f"{self.path}: the disk does not keep up, {self._pool.in_use_mb:.0f} MB wait to be written "
                f"(allowed {self._cfg.max_pending_mb:.0f} MB); record to a faster disk, or smaller images"
            )

    @property
    def _needed_bytes(self) -> int:
        return self._pool.block_bytes + SLACK_BYTES

    def _explained(self, error: OSError | RuntimeError) -> DataError:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or f"errno = {errno.ENOSPC}" in str(error)
        if not full:
            return DataError(f"{self.path}: cannot record: {error}; the folder must exist and be writable")
        return DataError(
            f"{self.path}: the disk is full: {free_bytes(self.path.parent) / 1e6:.1f} MB free, "
            f"{self._needed_bytes / 1e6:.1f} MB needed for the next {self._cfg.flush_every} steps. The steps written before are safe in this file. "
            "Free some space, then recover the episode (armflow.datasets.recovery.recover_spool) or delete the file."
        )


def free_bytes(folder: Path) -> int:
    """Space left on the folder's disk for this user."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
