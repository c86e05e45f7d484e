"""What is known about an episode beside its frames: outcome, cause, task, origin. Append-only, so every edit can be audited.

One JSON object per line in `meta/armflow/labels.jsonl`; the newest line of an episode counts.
"""

import dataclasses
import fcntl
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..robot.control import LoopStats
from ..robot.errors import DataError
from .layout import LABELS_PATH, sync_file, sync_folder

Outcome = Literal["success", "failure", "partial", "discarded"]


@dataclass(frozen=True)
class EpisodeLabel:
    """An episode's outcome and origin. Empty strings mean "not known" or "none"."""

    outcome: Outcome
    terminated: bool
    """The task ended (success or failure). False: it was cut off by the time limit or the operator (truncated)."""
    failure_tag: str = ""
    milestone: float | None = None
    """Score of the last milestone reached; None if the task has none."""
    operator: str = ""
    task: str = ""
    """The instruction, as the policy reads it."""
    policy_hash: str = ""
    """Checkpoint that acted; empty for demonstrations."""
    trial_id: str = ""
    seed: int | None = None
    """Seed of the scene's reset in the twin, and of a policy's noise anywhere; None for a demonstration on a real table."""
    rig_hash: str = ""
    calibration_hash: str = ""
    loop: LoopStats | None = None
    """How well the control loop kept its rate."""
    notes: str = ""

    def __post_init__(self) -> None:
        if self.outcome not in get_args(Outcome):
            raise DataError(f"outcome {self.outcome!r} is not one of {', '.join(get_args(Outcome))}")
        if self.outcome == "success" and not self.terminated:
            raise DataError("a successful episode is terminated by its success; set terminated=True")

    @property
    def success(self) -> bool:
        return self.outcome == "success"

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "EpisodeLabel":
        """Inverse of `to_dict`. Raises DataError on unknown or missing fields."""
        fields = dict(values)
        try:
            if (loop := fields.get("loop")) is not None:
                fields["loop"] = LoopStats(**loop)
            return EpisodeLabel(**fields)
        except TypeError as error:
            raise DataError(f"episode label has the wrong fields: {error}") from error


@dataclass(frozen=True)
class LabelEntry:
    """One line of the journal: a label, and who set it, when and why."""

    episode_index: int
    episode_id: str  # name of the recording; the same episode is never committed twice
    label: EpisodeLabel
    author: str
    reason: str
    wall_time: str  # ISO 8601, UTC

    @staticmethod
    def now(episode_index: int, episode_id: str, label: EpisodeLabel, *, author: str = "", reason: str) -> "LabelEntry":
        return LabelEntry(episode_index, episode_id, label, author, reason, datetime.now(UTC).isoformat())


def append_entry(root: Path, entry: LabelEntry, *, sync: bool = True) -> None:
    """Add a line to the journal; with `sync` it is on the disk when this returns."""
    path = root / LABELS_PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(dataclasses.asdict(entry)) + "\n"
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # a person may relabel while a session commits
        _drop_torn_line(file)
        file.write(line.encode())
    if sync:
        sync_file(path)
        sync_folder(path.parent)


def read_entries(root: Path) -> list[LabelEntry]:
    """The whole journal, oldest first; empty if there is none. Raises DataError on a damaged line."""
    path = root / LABELS_PATH
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    # A line without its newline was being written when the process was killed: it never took effect.
    return [_parse(path, number, line) for number, line in enumerate(lines[:-1], start=1)]


def newest_labels(root: Path) -> dict[int, EpisodeLabel]:
    """Newest label of every episode index, also of the one being committed right now."""
    return {entry.episode_index: entry.label for entry in read_entries(root)}


def episode_ids(root: Path) -> dict[int, str]:
    """Recording of every episode index, also of the one being committed right now.

    The newest line counts here too: one that was cut off before `info.json` may have been followed by another recording.
    """
    return {entry.episode_index: entry.episode_id for entry in read_entries(root)}


def label_columns(label: EpisodeLabel, length: int) -> dict[str, NDArray[Any]]:
    """`next.reward`, `next.done`, `next.success` of an episode, (length,) each: reward 1 on the last frame of a success."""
    last = np.arange(length) == length - 1
    success = last & label.success
    return {"next.reward": success.astype(np.float32), "next.done": last, "next.success": success}


def _parse(path: Path, number: int, line: bytes) -> LabelEntry:
    try:
        values = json.loads(line)
        values["label"] = EpisodeLabel.from_dict(values["label"])
        return LabelEntry(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}:{number}: not a label ({error}); repair this line by hand, the others are fine"
        ) from error


def _drop_torn_line(file: BinaryIO) -> None:
    """Cut what a killed process left of its line, so that the next one does not continue it."""
    if (size := file.seek(0, os.SEEK_END)) == 0:
        return
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
