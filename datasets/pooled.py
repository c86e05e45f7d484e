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
    stats |= _image_stats(root, dataset.schema, {episode.index for episode in dataset.episodes})
    values = {name: {key: value.tolist() for key, value in feature.items()} for name, feature in stats.items()}
    write_atomic(root / STATS_PATH, json.dumps(values))


def _image_stats(root: Path, schema: Schema, episodes: set[int]) -> dict[str, FeatureStats]:
    per_episode: dict[str, list[FeatureStats]] = {name: [] for name in schema.video_columns}
    for path in sorted((root / "meta/episodes").glob("*/*.parquet")):
        names = pq.read_schema(path).names
        prefixes = tuple(f"stats/{name}/" for name in per_episode)
        wanted = [name for name in names if name == "episode_index" or name.startswith(prefixes)]
        for row in pq.ParquetFile(path).read(wanted).to_pylist():
            if row["episode_index"] not in episodes:
                continue
            for name, collected in per_episode.items():
                prefix = f"stats/{name}/"
                stats = {k.removeprefix(prefix): np.array(v) for k, v in row.items() if k.startswith(prefix)}
                if stats:
                    collected.append(stats)
    return {name: pooled_image_stats(collected) for name, collected in per_episode.items() if collected}
