"""The last half minute before a stop: what was measured, asked for, let through and sent, tick by tick.

Always kept in memory; written when `run_episode` stops with an exception, if there is a folder to write to.
"""

import json
import math
import os
import zipfile
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError
from .types import ArmCommand, ArmSpec, ArmState, Floats, SafetyFlag

SUFFIX = ".npz"


@dataclass(eq=False)
class Moment:
    """One tick, filled in as it goes: what is still None had not happened when the loop stopped."""

    t: float  # s, on the loop's clock
    measured: ArmState
    requested: ArmCommand | None = None
    age_s: float = math.nan  # of the observation behind the request
    filtered: ArmCommand | None = None
    flags: SafetyFlag = SafetyFlag.NONE
    sent: ArmCommand | None = None


@dataclass(frozen=True, eq=False)
class Recording:
    """A black box that was written: one row per tick, the last one is the one that stopped it."""

    reason: str
    written: str  # wall-clock time, ISO 8601
    arm: str
    joint_names: tuple[str, ...]
    rows: Mapping[str, NDArray[Any]]
    """t, age_s, gripper, flags (n,); q, dq, effort (n, dof); requested, filtered, sent (n, dof + 1), NaN where there is none."""


class BlackBox:
    """Keeps the newest `seconds`, also across episodes. `folder` None: nothing is written (bulk simulation)."""

    def __init__(self, folder: Path | None = None, seconds: float = 30.0) -> None:
        self._folder, self._seconds = folder, seconds
        self._spec: ArmSpec | None = None
        self._moments: deque[Moment] = deque()

    def start(self, spec: ArmSpec, hz: float) -> None:
        """An episode with that arm at that rate begins. What was kept of another arm is forgotten."""
        kept = self._moments if self._spec is spec else ()
        self._spec, self._moments = spec, deque(kept, maxlen=math.ceil(self._seconds * hz))

    def add(self, moment: Moment) -> Moment:
        """Keep a tick; returns it, for what happens in it to be filled in."""
        self._moments.append(moment)
        return moment

    def write(self, reason: str) -> Path | None:
        """Write what is kept to a new file; returns its path, or None if there is no folder or nothing to write.

        Raises OSError if the disk does not take it.
        """
        if self._folder is None or self._spec is None or not self._moments:
            return None
        now, spec = datetime.now(UTC), self._spec
        about = {"reason": reason, "written": now.isoformat(), "arm": spec.name, "joint_names": spec.joint_names}
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"black_box-{now:%Y%m%dT%H%M%S%f}{SUFFIX}"
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            rows = _rows(list(self._moments), spec.dof)
            np.savez_compressed(file, allow_pickle=False, about=np.array(json.dumps(about)), **rows)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        return path


def read_black_box(path: Path) -> Recording:
    """Raises DataError if the file is not a complete black box."""
    try:
        with np.load(path, allow_pickle=False) as file:
            rows = {name: file[name] for name in file.files}
        about = json.loads(str(rows.pop("about")))
        return Recording(about["reason"], about["written"], about["arm"], tuple(about["joint_names"]), rows)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as a black box: {error}") from error


def _rows(moments: list[Moment], dof: int) -> dict[str, NDArray[Any]]:
    return {
        "t": np.array([m.t for m in moments]),
        "age_s": np.array([m.age_s for m in moments]),
        "q": np.stack([m.measured.q for m in moments]),
        "dq": np.stack([m.measured.dq for m in moments]),
        "effort": np.stack([m.measured.effort for m in moments]),
        "gripper": np.array([m.measured.gripper for m in moments]),
        "requested": np.stack([_vector(m.requested, dof) for m in moments]),
        "filtered": np.stack([_vector(m.filtered, dof) for m in moments]),
        "sent": np.stack([_vector(m.sent, dof) for m in moments]),
        "flags": np.array([int(m.flags) for m in moments], dtype=np.int64),
    }


def _vector(cmd: ArmCommand | None, dof: int) -> Floats:
    """(dof + 1,) joint targets and gripper; a request of another length, as far as it goes."""
    vector = np.full(dof + 1, np.nan)
    if cmd is not None:
        q = np.ravel(cmd.q)[:dof]
        vector[: len(q)], vector[dof] = q, cmd.gripper
    return vector
