"""Do the images belong to the rows? Every stream is decoded: a frame per row, no frozen picture, depth in a sane range."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..robot.errors import CorruptEpisode
from .episodes import Dataset, EpisodeArrays, EpisodeRef
from .findings import Finding
from .schema import DEPTH_SUFFIX, IMAGES, Column
from .video import decode, to_array

SAME_GREY_LEVELS = 12  # largest difference that compressing the same picture twice makes
FROZEN_FRAMES = 3  # in a row
FROZEN_ERROR_S = 1.0
MOVED_RAD = 0.05  # by a joint meanwhile: then a picture of the arm has to change
DEPTH_RANGE_MM = (100.0, 4000.0)  # of the median
DEPTH_SAMPLES = 8  # frames per episode
MAX_NO_RETURN = 0.9  # share of pixels
UNIT_FACTORS, UNIT_TOLERANCE = (10, 1000), 0.15  # between two cameras, that wrong units would make
SCALE_FACTOR = 6.0  # between medians; wrong units make it 10 or 1000


@dataclass(frozen=True, eq=False)
class StreamFacts:
    """What decoding a stream of an episode showed. `depth_mm` None: a colour stream, or nothing was read."""

    findings: tuple[Finding, ...]
    depth_mm: float | None = None


def check_stream(dataset: Dataset, arrays: EpisodeArrays, name: str, *, alone: bool) -> StreamFacts:
    """Decode one stream of an episode. `alone`: no other episode is in its file."""
    ref, column = arrays.ref, dataset.schema.columns[name]
    scan = _Scan(column, max(1, len(arrays) // DEPTH_SAMPLES))
    problem = _decode_all(dataset, ref, name, scan, alone)
    if problem is not None:
        return StreamFacts((problem,))
    found = [*_frozen(arrays, name, np.array(scan.same, bool), dataset.schema.fps)]
    if not column.depth:
        return StreamFacts(tuple(found))
    camera, holes = name.removeprefix(IMAGES).removesuffix(DEPTH_SUFFIX), float(np.mean(scan.holes))
    if holes > MAX_NO_RETURN:
        found.append(Finding(
            "error" if holes == 1 else "warning", "depth", ref.index, f"{camera}: {holes:.0%} of pixels have no depth",
            f"below {MAX_NO_RETURN:.0%}",
            "emitter off, lens covered, or a depth scale ten times too large (beyond 4.095 m depth is cut off)",
        ))  # fmt: skip
    return StreamFacts(tuple(found), float(np.median(scan.medians)) if scan.medians else None)


def check_depth_scale(
    facts: Mapping[tuple[int, str], float], expected_mm: Mapping[tuple[int, str], float]
) -> Iterator[Finding]:
    """Compare median depths by (episode, camera): with a sane range, the other episodes, and `expected_mm`, the distance
    from the calibrated camera to the table."""
    usual = {camera: float(np.median(_of(facts, camera))) for camera in sorted({camera for _, camera in facts})}
    for one, other in combinations(usual, 2):
        factor = max(usual[one], usual[other]) / min(usual[one], usual[other])
        if unit := next((unit for unit in UNIT_FACTORS if abs(factor / unit - 1) < UNIT_TOLERANCE), None):
            yield Finding(
                "warning", "depth scale", None, f"{one}: median depth {usual[one]:.0f} mm, {other}: {usual[other]:.0f} mm",
                f"not a factor of about {unit}", "one of the two may be in another unit; compare with a tape measure",
            )  # fmt: skip
    for (episode, camera), depth in facts.items():
        low, high = DEPTH_RANGE_MM
        if _apart(depth, usual[camera]):
            yield _scale(episode, camera, depth, f"about {usual[camera]:.0f} mm, as in the other episodes")
        elif (table := expected_mm.get((episode, camera))) is not None and _apart(depth, table):
            yield _scale(episode, camera, depth, f"about {table:.0f} mm, from the calibrated camera to the table")
        elif not low <= depth <= high:
            yield _scale(episode, camera, depth, f"{low:.0f} to {high:.0f} mm")


def _scale(episode: int, camera: str, depth: float, expected: str) -> Finding:
    return Finding(
        "error", "depth scale", episode, f"{camera}: median depth {depth:.0f} mm", expected,
        "the device's depth unit was not applied (D405: 0.1 mm); correct depth_scale_m and drop the episode",
    )  # fmt: skip


def _of(facts: Mapping[tuple[int, str], float], camera: str) -> list[float]:
    return [depth for (_, other), depth in facts.items() if other == camera]


def _apart(a: float, b: float) -> bool:
    return max(a, b) > SCALE_FACTOR * min(a, b)


class _Scan:
    """Goes through the frames of a stream, keeping only what the checks need."""

    def __init__(self, column: Column, stride: int) -> None:
        self._column, self._stride, self._last = column, stride, None
        self.count = 0
        self.same: list[bool] = []  # as the frame before
        self.holes: list[float] = []  # share of pixels without depth
        self.medians: list[float] = []  # mm

    def add(self, image: NDArray[Any]) -> None:
        if self._last is not None:
            self.same.append(_same(image, self._last, self._column))
        if self._column.depth and self.count % self._stride == 0:
            valid = image[image > 0]
            self.holes.append(1 - valid.size / image.size)
            if valid.size:
                self.medians.append(float(np.median(valid)))
        self._last, self.count = image, self.count + 1


def _same(a: NDArray[Any], b: NDArray[Any], column: Column) -> bool:
    if column.depth:  # lossless; an empty image says nothing
        return bool(a.any()) and np.array_equal(a, b)
    return int(np.abs(a.astype(np.int16) - b).max()) <= SAME_GREY_LEVELS


def _decode_all(dataset: Dataset, ref: EpisodeRef, name: str, scan: _Scan, alone: bool) -> Finding | None:
    video, column = ref.videos[name], dataset.schema.columns[name]
    try:
        for index, frame in decode(video.path, column, dataset.schema.fps, first=video.first_frame):
            if scan.count == ref.length:
                return _frames(ref, name, f"more than {ref.length} frames") if alone else None
            if index != video.first_frame + scan.count:
                return _frames(ref, name, f"frame {scan.count} is missing")
            scan.add(to_array(frame, column))
    except (CorruptEpisode, OSError) as error:
        return _frames(ref, name, f"cannot be decoded: {error}")
    return _frames(ref, name, f"{scan.count} frames") if scan.count != ref.length else None


def _frames(ref: EpisodeRef, name: str, found: str) -> Finding:
    return Finding(
        "error", "frames", ref.index, f"{name}: {found}", f"{ref.length} frames, one per row",
        "`armflow data repair` leaves the episode out, or commits its recording again", "drop",
    )  # fmt: skip


def _frozen(arrays: EpisodeArrays, name: str, same: NDArray[np.bool_], fps: int) -> Iterator[Finding]:
    """Pictures that stay the same while frame numbers go on and joints move."""
    camera = name.removeprefix(IMAGES).removesuffix(DEPTH_SUFFIX)
    if (numbers := arrays.columns.get(f"frame_number.{camera}")) is not None:
        same = same & (np.diff(numbers) > 0)  # repeated frames are another finding
    for start, end in _runs(same):
        moved = np.ptp(arrays.state[start : end + 1, :-1], axis=0).max()
        if end - start >= FROZEN_FRAMES and moved > MOVED_RAD:
            yield Finding(
                "error" if end - start >= FROZEN_ERROR_S * fps else "warning", "frozen image", arrays.ref.index,
                f"{name}: frames {start} to {end} are the same picture, a joint moved {moved:.2f} rad",
                "pictures that change with the arm", "the camera froze, or does not see the arm; look at the episode",
            )  # fmt: skip
            return


def _runs(flags: Sequence[bool] | NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """First and last frame of every stretch of equal frames, longest first; flag i compares frames i and i + 1."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    runs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    yield from sorted(runs, key=lambda run: run[0] - run[1])
