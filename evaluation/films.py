"""Videos of the same start side by side, embedded as data URIs."""

import base64
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import av
from av.error import FFmpegError

from ..robot.errors import DataError
from .registration import Registration
from .trials import TrialOutcome, TrialResult


@dataclass(frozen=True)
class Film:
    policy: str
    outcome: TrialOutcome
    video: str  # data URI
    poster: str  # data URI of the last frame: how the trial ended, also on paper


@dataclass(frozen=True)
class FilmRow:
    """The same start, met by every policy."""

    task: str
    seed: int
    films: tuple[Film, ...]


def film_rows(registration: Registration, results: Sequence[TrialResult], folder: Path) -> list[FilmRow]:
    """The filmed starts in the plan's order. Raises DataError if a video is missing or browsers cannot play it."""
    films = {
        (result.trial.task, result.trial.seed, result.trial.code): (result.outcome, folder / result.video)
        for result in results
        if result.video
    }
    starts = dict.fromkeys((trial.task, trial.seed) for trial in registration.plan.trials)
    rows = [
        FilmRow(
            task,
            seed,
            tuple(
                _film(policy.name, *films[task, seed, code])
                for code, policy in registration.key.policies.items()
                if (task, seed, code) in films
            ),
        )
        for task, seed in starts
    ]
    return [row for row in rows if row.films]


def _film(policy: str, outcome: TrialOutcome, path: Path) -> Film:
    codec, last = _open(path)
    if codec != "h264":
        raise DataError(f"{path} is {codec}, which browsers may not play: write H.264")
    poster = BytesIO()
    last.to_image().save(poster, "JPEG")
    return Film(
        policy,
        outcome,
        video=_data_uri("video/mp4", path.read_bytes()),
        poster=_data_uri("image/jpeg", poster.getvalue()),
    )


def _open(path: Path) -> tuple[str, av.VideoFrame]:
    """Codec and last frame."""
    try:
        container = av.open(path)
    except (OSError, FFmpegError) as error:
        raise DataError(f"{path} is not a readable video: {error}") from error
    with closing(container):
        frames = list(container.decode(container.streams.video[0])) if container.streams.video else []
        if not frames:
            raise DataError(f"{path} holds no frame")
        return container.streams.video[0].codec_context.name, frames[-1]


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
