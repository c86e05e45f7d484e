"""Images to video and back, in formats that stock LeRobot reads.

Colour is H.264. Depth is LeRobot's depth video: 12-bit codes in lossless HEVC. LeRobot maps a depth of 0 to the code
of `depth_min`, 10 mm by default, so that "no return" comes back as a surface. Here `depth_min` is 0 and the mapping is
linear with 1 mm per code: 0 comes back as 0, every depth up to 4.095 m comes back exactly, with stock LeRobot too.
Beyond that a reading becomes 0, "no return", rather than a wall at 4.095 m.
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ..robot.errors import CorruptEpisode
from .schema import Column
from .spool_file import image_dtype, image_shape

DEPTH_CODE_MAX = 4095  # 12 bits, LeRobot's depth format
DEPTH_MAX_M = 4.095  # 1 mm per code

CHROMA_SIZE_PX = 224
"""Below this size colour is stored at full resolution (4:4:4): half of a 96-pixel image is too little for small objects."""


def rgb_encoder(column: Column) -> dict[str, Any]:
    """Encoder settings of a colour stream, under the names of LeRobot's RGBEncoderConfig."""
    return {
        "vcodec": "h264",
        "pix_fmt": "yuv444p" if min(column.shape[:2]) < CHROMA_SIZE_PX else "yuv420p",
        "g": 2,  # every second frame can be read by itself; ten would save 20 % of the file
        "crf": 18,  # 44 dB on small images
        "preset": "ultrafast",  # 0.2 ms per 96x128 frame
        "fast_decode": 0,
        "video_backend": "pyav",
        "extra_options": {},
    }


def depth_encoder() -> dict[str, Any]:
    """Encoder settings of a depth stream, under the names of LeRobot's DepthEncoderConfig."""
    # Small fixed blocks and no B-frames: a third less time than the preset, files 10-25 % larger. Measured on noisy
    # depth, which is nearly incompressible. One thread, as the streams of an episode are encoded side by side.
    x265 = "lossless=1:bframes=0:ctu=16:min-cu-size=16:max-tu-size=16:pools=none:frame-threads=1:log-level=none"
    return {
        "vcodec": "hevc",
        "pix_fmt": "gray12le",
        "g": 10,
        "crf": None,
        "preset": "ultrafast",
        "fast_decode": 0,
        "video_backend": "pyav",
        "extra_options": {"x265-params": x265},
        "depth_min": 0.0,
        "depth_max": DEPTH_MAX_M,
        "shift": 3.5,  # only used by LeRobot's logarithmic mapping
        "use_log": False,
    }


def video_info(column: Column, fps: int) -> dict[str, Any]:
    """The `info` entry of a video column in `info.json`, as LeRobot writes it after probing a file."""
    encoder = depth_encoder() if column.depth else rgb_encoder(column)
    info = {
        "video.height": column.shape[0],
        "video.width": column.shape[1],
        "video.codec": encoder["vcodec"],
        "video.pix_fmt": encoder["pix_fmt"],
        "video.fps": fps,
        "video.channels": column.shape[2],
        "has_audio": False,
    }
    info |= {f"video.{name}": value for name, value in encoder.items() if name not in ("vcodec", "pix_fmt")}
    info["is_depth_map"] = column.depth
    return info | {"depth_unit": "mm"} if column.depth else info


def to_codes(depth_mm: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Depth in mm to 12-bit codes; what does not fit becomes 0, "no return"."""
    return np.where(depth_mm <= DEPTH_CODE_MAX, depth_mm, 0).astype(np.uint16)


def encode(path: Path, blocks: Iterable[NDArray[Any]], column: Column, fps: int) -> None:
    """Write a video file from blocks of frames: (n, h, w, 3) uint8, or (n, h, w) uint16 mm. Raises OSError."""
    encoder = depth_encoder() if column.depth else rgb_encoder(column)
    options = {"preset": encoder["preset"], "g": str(encoder["g"]), "threads": "1", **encoder["extra_options"]}
    if encoder["crf"] is not None:
        options["crf"] = str(encoder["crf"])
    try:
        with av.open(str(path), "w", format="mp4") as output:
            stream = output.add_stream(encoder["vcodec"], fps, options=options)
            assert isinstance(stream, VideoStream)
            stream.height, stream.width = column.shape[:2]
            stream.pix_fmt = encoder["pix_fmt"]
            stream.time_base = Fraction(1, fps)
            for index, image in enumerate(image for block in blocks for image in block):
                frame = _depth_frame(image) if column.depth else av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = index
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
    except av.error.FFmpegError as error:  # a full disk, most likely; not all of PyAV's errors are OSErrors
        raise OSError(error.errno, f"cannot encode: {error.strerror}", str(path)) from error


def decode(path: Path, column: Column, fps: int, *, first: int = 0) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames from index `first` on, each with its index in the file. Convert them with `to_array`.

    Raises CorruptEpisode if the file is not a video or a frame does not lie on the grid of `fps`.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_count = 1  # callers decode several streams at once
            base = stream.time_base
            if first:
                assert base is not None
                container.seek(round(first / fps / base) - 1, backward=True, any_frame=False, stream=stream)
            for frame in container.decode(stream):
                assert frame.pts is not None and base is not None
                position = frame.pts * base * fps
                index = round(position)
                if abs(position - index) > 0.01:
                    raise CorruptEpisode(f"{path}: a frame lies at {float(position):.3f} frame periods, off the grid")
                if index >= first:
                    yield index, frame
    except (av.error.FFmpegError, IndexError) as error:
        raise CorruptEpisode(f"{path}: not a readable video ({error})") from error


def to_array(frame: av.VideoFrame, column: Column) -> NDArray[Any]:
    """(h, w, 3) uint8, or (h, w) uint16 mm for a depth column."""
    return frame.to_ndarray(format="gray12le" if column.depth else "rgb24")


def read_frames(path: Path, column: Column, fps: int, *, first: int, count: int, stride: int = 1) -> NDArray[Any]:
    """Frames first, first + stride, ... below first + count: (n, h, w, 3) uint8, or (n, h, w) uint16 mm.

    Raises CorruptEpisode if one of them is not in the file.
    """
    wanted = len(range(0, count, stride))
    images = np.empty((wanted, *image_shape(column)), image_dtype(column))
    found = 0
    for index, frame in decode(path, column, fps, first=first):
        if index >= first + count:
            break
        if index == first + found * stride:
            images[found] = to_array(frame, column)
            found += 1
            if found == wanted:
                break
    if found != wanted:
        raise CorruptEpisode(f"{path}: frame {first + found * stride} is missing; the episode's video is incomplete")
    return images


def _depth_frame(depth_mm: NDArray[np.uint16]) -> av.VideoFrame:
    height, width = depth_mm.shape
    frame = av.VideoFrame(width, height, "gray12le")
    plane = frame.planes[0]
    # Rows of the plane are padded to `line_size` bytes.
    padded = np.frombuffer(plane, np.uint16).reshape(height, plane.line_size // 2)  # pyright: ignore[reportArgumentType]
    padded[:, :width] = to_codes(depth_mm)
    return frame
