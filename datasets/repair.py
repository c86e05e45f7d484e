"""Making a damaged dataset whole: what can be computed again is, what is lost is left out, and all of it is said.

What only follows from something else (statistics, columns of labels) is written anew in place, file by file. Anything
more becomes a new dataset, which takes the old one's place when it is complete and proven; the old one is kept beside it.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from ..robot.errors import CorruptEpisode, DataError
from .appender import DatasetAppender, lock_dataset
from .assemble import Advance, Part, assemble, write_lineage
from .check import check_dataset
from .episodes import survey
from .findings import Finding
from .labels import LabelEntry, append_entry, newest_labels, read_entries
from .new_folder import filled_folder, new_folder, sync_tree, take_the_place_of
from .pooled import write_pooled_stats
from .relabel import rewrite_label_columns
from .spool_file import SpoolEpisode, read_spool


@dataclass(frozen=True)
class RepairPlan:
    """What will be done. Nothing, if all is empty."""

    left_out: Mapping[int, str]  # episode -> why
    asked_for: frozenset[int]  # those of them that a person wants out
    rewrite: tuple[str, ...]  # what is wrong with the index
    labels: tuple[int, ...]  # episodes whose columns disagree with their label
    statistics: bool

    @property
    def new_dataset(self) -> bool:
        """Whether rows or videos change, and not only what follows from them."""
        return bool(self.left_out or self.rewrite)

    def __bool__(self) -> bool:
        return self.new_dataset or bool(self.labels) or self.statistics

    def lines(self) -> list[str]:
        """In words, one line each."""
        return [
            *(f"episode {index} is left out: {why}" for index, why in sorted(self.left_out.items())),
            *(f"index columns are written anew: {what}" for what in self.rewrite),
            *(f"episode {index}: columns are written anew from its label" for index in self.labels),
            *(["statistics are computed anew over all frames"] if self.statistics or self.new_dataset else []),
        ]


@dataclass(frozen=True)
class RepairReport:
    """What was done; `kept` is where the dataset as it was lies now, None if nothing was replaced."""

    plan: RepairPlan
    dataset: Path
    recommitted: tuple[str, ...] = ()
    kept: Path | None = None


def plan_repair(findings: Sequence[Finding], drop: Sequence[int] = ()) -> RepairPlan:
    """From what `check_dataset` found, and the episodes that a person wants out."""
    left_out = {f.episode: f"{f.check}: {f.found}" for f in findings if f.remedy == "drop" and f.episode is not None}
    left_out |= {index: "asked for" for index in drop}
    return RepairPlan(
        left_out,
        frozenset(drop),
        tuple(f.found if f.episode is None else f"episode {f.episode}: {f.found}" for f in findings if f.remedy == "rewrite"),
        tuple(f.episode for f in findings if f.remedy == "labels" and f.episode is not None and f.episode not in left_out),
        any(f.remedy == "statistics" for f in findings),
    )  # fmt: skip


def repair(
    root: Path,
    *,
    out: Path | None = None,
    drop: Sequence[int] = (),
    spool: Path | None = None,
    images: bool = True,
    dry_run: bool = False,
    advance: Advance = lambda *_: None,
) -> RepairReport:
    """Repair what `check_dataset` finds and a machine can put right, in place or as a new dataset `out`.

    `drop`: episodes to leave out whatever their state. `spool`: recordings from which damaged episodes are committed
    again, at the end of the dataset. `images` False trusts the videos. A kill at any moment leaves a whole dataset at
    `root`, the old or the new one. Raises DataError if nothing would be left, or another process commits to it.
    """
    with ExitStack() as stack:
        if out is None and not dry_run:
            stack.callback(os.close, lock_dataset(root))
        dataset, missing = survey(root)
        total = len(dataset.episodes) + len(missing)
        if wrong := [index for index in drop if not 0 <= index < total]:
            raise DataError(f"{root}: no episodes {wrong}; it has 0 to {total - 1}")
        plan = plan_repair(check_dataset(root, images=images, advance=advance), drop)
        if dry_run or (not plan and out is None):
            return RepairReport(plan, root)
        if out is None and not plan.new_dataset:
            for episode in (e for e in dataset.episodes if e.index in plan.labels):
                rewrite_label_columns(root, episode)
            write_pooled_stats(root)
            return RepairReport(plan, root)

        part = Part(dataset, tuple(e for e in dataset.episodes if e.index not in plan.left_out))
        if out is not None:
            with new_folder(out) as staged:
                again = _make(staged, part, plan, spool)
            return RepairReport(plan, out, again)
        with filled_folder(root) as staged:
            again = _make(staged, part, plan, spool)
            sync_tree(staged)
            kept = root.absolute().with_name(
                f"{root.absolute().name}.before-repair-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
            )
            take_the_place_of(root.absolute(), staged, kept)
        return RepairReport(plan, root, again, kept)


def _make(staged: Path, part: Part, plan: RepairPlan, spool: Path | None) -> tuple[str, ...]:
    """The repaired dataset, in `staged`. Returns the recordings that were committed again."""
    lost = sorted(set(plan.left_out) - plan.asked_for)
    recordings = list(_recordings(part.dataset.root, lost, spool)) if spool is not None else []
    if not part.episodes and not recordings:
        raise DataError(f"{part.dataset.root}: no episode would be left; restore the dataset from a copy")
    assemble(staged, [part], "repair")
    with DatasetAppender(staged) as appender:
        for episode, history in recordings:
            index = appender.append(episode)
            for entry in history:  # after "committed", so that the newest of them is the newest again
                append_entry(staged, replace(entry, episode_index=index), sync=False)
    write_pooled_stats(staged)
    again = tuple(episode.header.episode_id for episode, _ in recordings)
    left_out = {str(index): why for index, why in plan.left_out.items()}
    write_lineage(staged, "repair", [part], left_out=left_out, committed_again=again)
    if still := [f for f in check_dataset(staged, images=False) if f.remedy != "person"]:
        raise DataError(f"the repaired dataset would still be wrong, nothing was changed: {still[0].found}")
    return again


def _recordings(root: Path, lost: Sequence[int], spool: Path | None) -> Iterator[tuple[SpoolEpisode, list[LabelEntry]]]:
    """Recordings of lost episodes that `spool` still has, with the newest label and the history of each."""
    if spool is None or not spool.is_dir():
        raise DataError(f"{spool}: no such folder; expected one with *.h5 recordings")
    entries, labels = read_entries(root), newest_labels(root)
    by_id = {entry.episode_id: entry.episode_index for entry in entries if entry.episode_index in lost}
    for path in sorted(spool.glob("*.h5")):
        try:
            episode = read_spool(path)
        except CorruptEpisode:
            continue  # no help for this one
        if (index := by_id.pop(episode.header.episode_id, None)) is not None:
            history = [e for e in entries if e.episode_id == episode.header.episode_id]
            yield replace(episode, label=labels[index]), history
