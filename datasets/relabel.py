"""Correcting an episode's label after the fact: a new line in the journal, and the columns that follow from it.

Videos are never touched. The journal is what counts; the columns are for readers that do not know it.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..robot.errors import DataError
from .episodes import EpisodeRef, open_dataset
from .labels import EpisodeLabel, LabelEntry, append_entry, episode_ids, label_columns
from .layout import ARMFLOW_DIR, publish


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
