"""Somebody else's episodes into our dataset, through the same spool files and the same proof of every video."""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..robot.errors import CorruptEpisode, DataError
from ..robot.types import CameraSpec
from .appender import DatasetAppender
from .import_aloha import find_aloha, read_aloha
from .import_droid import find_droid, read_droid
from .import_robomimic import find_robomimic, read_robomimic
from .import_source import Ends, SourceEpisode, SourceMap
from .labels import EpisodeLabel
from .pooled import write_pooled_stats
from .schema import IMAGES, Schema, make_schema
from .spool import SLACK_BYTES
from .spool_blocks import Block
from .spool_file import SpoolFile, SpoolHeader, image_dtype, image_shape, read_spool, row_dtype

FormatName = Literal["aloha", "robomimic", "droid"]
NEVER_THERE = ("action.requested", "control_mode", "safety_flags", "chunk_index", "chunk_step")
BLOCK = 8  # frames written at a time


@dataclass(frozen=True)
class SourceFormat:
    """How a format is found and read, and what is usual in it."""

    find: Callable[[Sequence[Path]], Sequence[Any]]
    read: Callable[[Any, SourceMap], SourceEpisode]
    fps: int
    gripper: Ends
    action_gripper: Ends


FORMATS: dict[FormatName, SourceFormat] = {
    "aloha": SourceFormat(find_aloha, read_aloha, 50, (0.0, 1.0), (0.0, 1.0)),
    "robomimic": SourceFormat(find_robomimic, read_robomimic, 20, (0.0, 0.04), (1.0, -1.0)),
    "droid": SourceFormat(find_droid, read_droid, 15, (1.0, 0.0), (1.0, 0.0)),
}


@dataclass(frozen=True)
class ImportReport:
    """Episodes in the dataset now, of those found; and why the others are not."""

    imported: int
    rejected: tuple[str, ...]


def import_episodes(
    name: FormatName,
    sources: Sequence[Path],
    root: Path,
    cfg: SourceMap,
    advance: Callable[[int, int], None] = lambda *_: None,
) -> ImportReport:
    """Append every episode of `sources` to the dataset at `root`, made if needed; those already there are not added again.

    A damaged episode is left out and named. Raises DataError if the data are of another kind of robot, SchemaMismatch if
    the dataset has other columns or image sizes.
    """
    source = FORMATS[name]
    found, imported, rejected = source.find(sources), 0, []
    if not found:
        raise DataError(f"no {name} episodes in {', '.join(map(str, sources))}")
    folder = root.with_name(f"{root.name}.import")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "episode.h5"
    try:
        with DatasetAppender(root) as appender:
            for done, address in enumerate(found, start=1):
                try:
                    write_spool(path, source.read(address, cfg), name, cfg)
                    appender.append(read_spool(path))
                    imported += 1
                except CorruptEpisode as error:
                    rejected.append(str(error))
                advance(done, len(found))
            if appender.total_episodes:
                write_pooled_stats(root)
    except OSError as error:
        raise DataError(f"{root}: cannot write: {error}. Free some space and import again, it goes on") from error
    finally:
        shutil.rmtree(folder)  # only copies
    return ImportReport(imported, tuple(rejected))


def source_schema(episode: SourceEpisode, cfg: SourceMap) -> Schema:
    """Our columns, without those the source has no values for."""
    nothing = np.zeros(0)
    cameras = [
        CameraSpec(name, width, height, cfg.fps, nothing, nothing, 0.0, "", nothing)
        for name, (height, width) in episode.sizes.items()
    ]
    full = make_schema(cfg.arm, cameras, cfg.fps, depth=())
    absent = {*NEVER_THERE, *(n for n in full.columns if n.startswith(("capture_time.", "frame_number.")))}
    absent |= {"observation.velocity"} if episode.velocity is None else set()
    absent |= {"observation.effort"} if episode.effort is None else set()
    return replace(full, columns={name: column for name, column in full.columns.items() if name not in absent})


def write_spool(path: Path, episode: SourceEpisode, source: FormatName, cfg: SourceMap) -> None:
    """The episode as a finished recording. Raises CorruptEpisode if there is not an image for every row."""
    schema = source_schema(episode, cfg)
    content = hashlib.sha256(episode.state.tobytes() + episode.action.tobytes()).hexdigest()[:16]
    header = SpoolHeader(
        episode_id=f"{source}-{re.sub(r'[^A-Za-z0-9]+', '-', episode.name)}-{content}",
        started=datetime.now(UTC).isoformat(),
        schema=schema,
        task=episode.task,
        seed=None,
        rig_hash="",
        policy_hash="",
        calibration={},
    )
    path.unlink(missing_ok=True)
    label = _label(episode, source, schema, cfg)
    with closing(SpoolFile(path, header, BLOCK)) as file:
        for block, count in _blocks(episode, schema):
            file.reserve(sum(array.nbytes for array in block.values()) + SLACK_BYTES)
            file.append(block, count)
        file.write_outcome({"label": label.to_dict()})


def _blocks(episode: SourceEpisode, schema: Schema) -> Iterator[tuple[Block, int]]:
    values = {
        "observation.state": episode.state,
        "action": episode.action,
        "observation.velocity": episode.velocity,
        "observation.effort": episode.effort,
    }
    images = {camera: frames() for camera, frames in episode.images.items()}
    n = len(episode.state)
    for start in range(0, n, BLOCK):
        count = min(BLOCK, n - start)
        block: Block = {"rows": np.zeros(BLOCK, row_dtype(schema))}
        for name in schema.row_columns:
            block["rows"][name][:count] = values[name][start : start + count]
        for camera, frames in images.items():
            column = schema.columns[IMAGES + camera]
            block[IMAGES + camera] = np.zeros((BLOCK, *image_shape(column)), image_dtype(column))
            for slot in range(count):
                image = next(frames, None)
                if image is None:
                    raise CorruptEpisode(f"{episode.name}: {start + slot} images of {camera} for {n} states")
                if image.shape != column.shape:
                    raise CorruptEpisode(
                        f"{episode.name}: {camera} changes its size to {image.shape} at {start + slot}"
                    )
                block[IMAGES + camera][slot] = image
        yield block, count
    for camera, frames in images.items():
        if next(frames, None) is not None:
            raise CorruptEpisode(f"{episode.name}: more than {n} images of {camera}, one for each state expected")


def _label(episode: SourceEpisode, source: FormatName, schema: Schema, cfg: SourceMap) -> EpisodeLabel:
    outcome = cfg.outcome
    if outcome is None:
        if episode.success is None:
            raise DataError(f"{episode.name}: the source does not say how it ended; say so with --outcome")
        outcome = "success" if episode.success else "failure"
    if not episode.task:
        raise DataError(f"{episode.name}: the source has no instruction; give it with --task")
    absent = [name for name in ("observation.velocity", "observation.effort") if name not in schema.columns]
    notes = (
        f"imported from {source}: {episode.name}. Actions: "
        + ("joint targets as recorded" if cfg.actions == "recorded" else "joints of the next frame, not commands")
        + f". Not in the source: {', '.join([*absent, 'depth', 'capture times', 'what safety changed'])}."
    )
    return EpisodeLabel(outcome, terminated=outcome == "success", operator=source, task=episode.task, notes=notes)
