"""One video stream of an episode: encoded, then decoded again and compared with what was recorded, frame by frame."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..robot.errors import CorruptEpisode
from .episode_stats import FeatureStats, image_stats
from .schema import Column
from .spool_file import SpoolEpisode
from .video import decode, encode, to_array, to_codes

BLOCK_BYTES = 64e6  # images held in memory at a time; a short episode of small images is read once
STATS_FRAMES = 16  # frames of an episode that image statistics look at
COLOUR_TOLERANCE = 24.0  # mean difference in grey levels; the encoder stays below 10 even on white noise


def encode_and_prove(episode: SpoolEpisode, name: str, path: Path) -> FeatureStats:
    """Write one stream to `path` and return its statistics. Raises CorruptEpisode if the file does not match the rows.

    Depth must come back exactly; colour, which is compressed with losses, closely. Every frame must lie on its row's
    time stamp.
    """
    column, fps = episode.header.schema.columns[name], episode.header.schema.fps
    blocks = _Blocks(episode, name, column)
    encode(path, blocks, column, fps)

    decoded = decode(path, column, fps)
    samples: list[NDArray[Any]] = []
    for row, image in enumerate(image for block in blocks for image in block):
        index, frame = next(decoded, (None, None))
        if frame is None or index != row:
            raise CorruptEpisode(
                f"{episode.path}: video {name} holds {index or row} frames, recorded were {len(episode)}"
            )
        if not _same(to_array(frame, column), image, column):
            raise CorruptEpisode(f"{episode.path}: frame {row} of video {name} does not match the recorded image")
        if row % -(-len(episode) // STATS_FRAMES) == 0:
            samples.append(image)
    if next(decoded, None) is not None:
        raise CorruptEpisode(f"{episode.path}: video {name} holds more than the {len(episode)} recorded frames")
    return image_stats(np.stack(samples), len(samples))


def _same(decoded: NDArray[Any], recorded: NDArray[Any], column: Column) -> bool:
    if column.depth:
        return np.array_equal(decoded, to_codes(recorded))
    return np.abs(decoded.astype(np.int16) - recorded).mean() <= COLOUR_TOLERANCE


class _Blocks:
    """The recorded images of a stream, in blocks, to be gone through more than once; kept if they all fit in one."""

    def __init__(self, episode: SpoolEpisode, name: str, column: Column) -> None:
        frame_bytes = int(np.prod(column.shape)) * (2 if column.depth else 1)
        self._size = max(1, int(BLOCK_BYTES // frame_bytes))
        self._episode, self._name = episode, name
        self._only = episode.images(name) if len(episode) <= self._size else None

    def __iter__(self) -> Iterator[NDArray[Any]]:
        if self._only is not None:
            yield self._only
            return
        for start in range(0, len(self._episode), self._size):
            yield self._episode.images(self._name, start, start + self._size)
