"""`stats.json` for LeRobot's own policies: quantiles of all frames together, as `episode_stats` explains."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from ..robot.errors import DataError
from .episode_stats import FeatureStats, column_stats, pooled_image_stats
from .episodes import open_dataset, read_columns
from .layout import STATS_PATH, write_atomic
from .schema import Schema


def write_pooled_stats(root: Path) -> None:
    """Compute the statistics of the whole dataset anew and replace `meta/stats.json`."""
    dataset = open_dataset(root)
    if not dataset.episodes:
        raise DataError(f"{root}: no episodes, so no statistics; record and commit some first")
    columns = read_columns(dataset)
    stats = {name: column_stats(np.concatenate(parts)) for name, parts in columns.items()}
    by_episode = stored_image_stats(root, dataset.schema)
    for name in dataset.schema.video_columns:
        kept = [by_episode[e.index][name] for e in dataset.episodes if name in by_episode.get(e.index, {})]
        if kept:
            stats[name] = pooled_image_stats(kept)
    values = {name: {key: value.tolist() for key, value in feature.items()} for name, feature in stats.items()}
    write_atomic(root / STATS_PATH, json.dumps(values))


def stored_image_stats(root: Path, schema: Schema) -> dict[int, dict[str, FeatureStats]]:
    """Image statistics that `meta/episodes` holds, by episode and video column."""
    prefixes = {name: f"stats/{name}/" for name in schema.video_columns}
    found: dict[int, dict[str, FeatureStats]] = {}
    for path in sorted((root / "meta/episodes").glob("*/*.parquet")):
        try:
            names = pq.read_schema(path).names
        except (OSError, ValueError):  # a damaged file; `survey` names its episodes
            continue
        wanted = [name for name in names if name == "episode_index" or name.startswith(tuple(prefixes.values()))]
        for row in pq.ParquetFile(path).read(wanted).to_pylist():
            for name, prefix in prefixes.items():
                stats = {k.removeprefix(prefix): np.array(v) for k, v in row.items() if k.startswith(prefix)}
                if stats:
                    found.setdefault(row["episode_index"], {})[name] = stats
    return found
