"""Finishing an episode whose recording was killed or aborted, from what its spool file holds."""

import os
from pathlib import Path

from ..robot.errors import CorruptEpisode, DataError
from .labels import EpisodeLabel
from .layout import sync_file, sync_folder
from .spool import SLACK_BYTES, SpoolCfg, free_bytes
from .spool_blocks import BlockPool
from .spool_file import (
    PART_SUFFIX,
    SAVED_SUFFIX,
    SpoolEpisode,
    SpoolFile,
    completed_label,
    lock_recording,
    read_spool,
)


def unfinished(folder: Path) -> list[Path]:
    """Spool files that were never saved, oldest first; one of them may be in the middle of being recorded."""
    return sorted(folder.glob(f"*{PART_SUFFIX}"))


def recover_spool(part: Path, label: EpisodeLabel) -> Path:
    """Turn an unfinished spool file into a finished one, up to its last flush, ready to be committed.

    The part file is removed once the recovered one is durable; until then both need room. Raises DataError if a process
    still records into it or the disk is full, CorruptEpisode if it holds no frames.
    """
    lock = lock_recording(part)
    if lock is None:
        raise DataError(f"{part}: still being recorded; end that recording first")
    try:
        episode = read_spool(part)
        if len(episode) == 0:
            raise CorruptEpisode(f"{part}: no frame was flushed before the recording stopped; delete the file")
        # Before the copy is begun: HDF5 must never run out of space itself, see `SpoolFile.reserve`.
        if (free := free_bytes(part.parent)) < (needed := part.stat().st_size + SLACK_BYTES):
            raise DataError(
                f"{part}: the disk is full: {free / 1e6:.1f} MB free, {needed / 1e6:.1f} MB needed to copy the frames into "
                "a whole file. Free some space, then recover it again"
            )
        header = episode.header
        staged = part.with_name(f"{header.episode_id}.recovering")
        staged.unlink(missing_ok=True)
        _copy(episode, staged, label)
        sync_file(staged)
        final = part.with_name(header.episode_id + SAVED_SUFFIX)
        os.rename(staged, final)
        part.unlink()
        sync_folder(final.parent)
        return final
    finally:
        os.close(lock)


def _copy(episode: SpoolEpisode, path: Path, label: EpisodeLabel) -> None:
    schema, size = episode.header.schema, SpoolCfg().flush_every
    file = SpoolFile(path, episode.header, size)
    block = BlockPool(schema, size).take()
    for start in range(0, len(episode), size):
        count = min(size, len(episode) - start)
        block["rows"][:count] = episode.rows[start : start + count]
        for name in schema.video_columns:
            block[name][:count] = episode.images(name, start, start + count)
        file.append(block, count)
    file.write_outcome({"label": completed_label(label, episode.header).to_dict()})
    file.close()
