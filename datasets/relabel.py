"""Correcting an episode's label after the fact: a new line in the journal, and the columns that follow from it.

Videos are never touched. The journal is what counts; the columns are for readers that do not know it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..robot.errors import DataError
from .episodes import EpisodeRef, open_dataset
from .labels import EpisodeLabel, LabelEntry, Outcome, append_entry, episode_ids, label_columns
from .layout import ARMFLOW_DIR, publish
from .pooled import write_pooled_stats


def relabel(root: Path, episode_index: int, label: EpisodeLabel, *, author: str, reason: str) -> None:
    """Give an episode a new label. Raises DataError if the episode does not exist, or author or reason are missing."""
    if not author or not reason:
        raise DataError("relabelling needs an author and a reason: the journal must say who changed what, and why")
    dataset = open_dataset(root)
    if not 0 <= episode_index < len(dataset.episodes):
        raise DataError(f"{root}: no episode {episode_index}; it has 0 to {len(dataset.episodes) - 1}")
    episode_id = episode_ids(root).get(episode_index, "")
    entry = LabelEntry.now(episode_index, episode_id, label, author=author, reason=reason)
    append_entry(root, entry)
    _rewrite_columns(root, dataset.episodes[episode_index], label)


def relabel_all(
    root: Path, episodes: Sequence[int], outcome: Outcome, changes: Mapping[str, Any], *, author: str, reason: str
) -> dict[int, tuple[str, str]]:
    """Give episodes another outcome, and `changes` by field; what is not named stays as their labels say.

    Returns old and new outcome by episode. Nothing is changed if one of them is wrong. Raises DataError.
    """
    found = open_dataset(root).episodes
    if wrong := [index for index in episodes if not 0 <= index < len(found)] or not episodes:
        raise DataError(f"{root}: no episodes {wrong if episodes else 'named'}; it has 0 to {len(found) - 1}")
    labels = {index: _changed(found[index], outcome, changes) for index in dict.fromkeys(episodes)}
    for index, label in labels.items():
        relabel(root, index, label, author=author, reason=reason)
    write_pooled_stats(root)  # of rewards, which LeRobot keeps with the others
    return {index: (_outcome(found[index].label), label.outcome) for index, label in labels.items()}


def rewrite_label_columns(root: Path, episode: EpisodeRef) -> None:
    """Write the columns that follow from an episode's label anew: a kill may have come between journal and columns."""
    assert episode.label is not None
    _rewrite_columns(root, episode, episode.label)


def _changed(episode: EpisodeRef, outcome: Outcome, changes: Mapping[str, Any]) -> EpisodeLabel:
    success, old = outcome == "success", episode.label
    if old is None and not success and "terminated" not in changes:
        raise DataError(
            f"episode {episode.index} has no label yet; say with --terminated True or False whether its task ended"
        )
    old = old or EpisodeLabel(outcome, terminated=success, task=episode.task)
    implied = {"terminated": True, "failure_tag": ""} if success else {}
    return replace(old, outcome=outcome, **(implied | dict(changes)))


def _outcome(label: EpisodeLabel | None) -> str:
    return "unlabelled" if label is None else label.outcome


def _rewrite_columns(root: Path, episode: EpisodeRef, label: EpisodeLabel) -> None:
    table = pq.ParquetFile(episode.data).read()
    rows = table["episode_index"].to_numpy() == episode.index
    for name, values in label_columns(label, episode.length).items():
        place = table.column_names.index(name) if name in table.column_names else None
        if place is None:
            continue
        column = table[name].to_numpy(zero_copy_only=False).copy()
        column[rows] = values
        table = table.set_column(place, table.schema.field(place), pa.array(column))
    staged = root / ARMFLOW_DIR / f"relabelled-{episode.index}.parquet"
    pq.write_table(table, staged, compression="snappy")
    publish(staged, episode.data)
