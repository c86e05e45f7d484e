"""Episodes as H.264 films: all cameras side by side."""

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from ..control import Step

HEIGHT = 240  # px of each camera's picture


class Film:
    """Context manager and StepSink that writes `path`; without a path it does nothing and takes no part."""

    def __init__(self, path: Path | None, fps: float) -> None:
        self._path, self._fps = path, fps
        self._output: Any = None
        self._stream: Any = None

    @property
    def sinks(self) -> "tuple[Film, ...]":
        """For the control loop: empty when there is nothing to film, so that no image is rendered."""
        return (self,) if self._path is not None else ()

    def __enter__(self) -> Self:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._output = av.open(str(self._path), "w", format="mp4")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._output is not None:
            if self._stream is not None:
                self._output.mux(self._stream.encode())
            self._output.close()

    def add(self, step: Step) -> None:
        self.show(side_by_side([frame.rgb for frame in step.obs.frames.values()]))

    def show(self, picture: NDArray[np.uint8]) -> None:
        """Append one picture (h, w, 3)."""
        if self._stream is None:
            rate = Fraction(self._fps).limit_denominator(1000)
            self._stream = self._output.add_stream("h264", rate, options={"crf": "26", "preset": "veryfast"})
            self._stream.height, self._stream.width = picture.shape[:2]
            self._stream.pix_fmt = "yuv420p"
        self._output.mux(self._stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))

    def abort(self, reason: str) -> None:
        pass


def side_by_side(pictures: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures at one height, next to each other; even sizes, as video wants them."""
    scaled = [
        cv2.resize(p, (round(p.shape[1] * HEIGHT / p.shape[0] / 2) * 2, HEIGHT), interpolation=cv2.INTER_LINEAR)
        for p in pictures
    ]
    return np.hstack(scaled).astype(np.uint8)
