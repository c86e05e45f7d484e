"""Steps on their way to the disk: buffers of a few steps, laid out as the spool file stores them."""

import queue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..robot.control import Step
from ..robot.errors import DataError
from .schema import DEPTH_SUFFIX, IMAGES, Schema
from .spool_file import image_dtype, image_shape, row_dtype

BUFFERED_S = 2.0  # how long a busy disk may stall before new memory is needed

Block = dict[str, NDArray[Any]]
"""`rows` (size,) records and every video column (size, h, w, ...)."""


class BlockPool:
    """Blocks of `size` steps, used again and again, also by the next episode.

    Enough for `BUFFERED_S` are made at once: fresh memory costs a page fault per 4 kB, up to half a second for a block
    of 640x480 images on a virtual machine, and the control loop would have to wait for it.
    """

    def __init__(self, schema: Schema, size: int) -> None:
        self._layout: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {"rows": ((size,), row_dtype(schema))}
        for name, column in schema.video_columns.items():
            self._layout[name] = ((size, *image_shape(column)), image_dtype(column))
        self.block_bytes = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in self._layout.values())
        self._free: queue.SimpleQueue[Block] = queue.SimpleQueue()
        self._made = 0
        for _ in range(2 + int(BUFFERED_S * schema.fps / size)):
            self._free.put(self._make())

    @property
    def in_use_mb(self) -> float:
        return (self._made - self._free.qsize()) * self.block_bytes / 1e6

    def take(self) -> Block:
        try:
            return self._free.get_nowait()
        except queue.Empty:
            return self._make()

    def give_back(self, block: Block) -> None:
        self._free.put(block)

    def _make(self) -> Block:
        self._made += 1
        block = {name: np.empty(shape, dtype) for name, (shape, dtype) in self._layout.items()}
        for array in block.values():
            array.fill(0)  # writes every page now; np.zeros would leave that to the first step
        return block


def fill(block: Block, slot: int, step: Step, schema: Schema) -> None:
    """Copy a step into `block[...][slot]`. Raises DataError if a camera is missing or delivers another size."""
    row, arm = block["rows"][slot], step.obs.arm
    row["observation.state"] = arm.vector
    row["observation.velocity"] = arm.dq
    row["observation.effort"] = arm.effort
    row["action"] = step.executed.vector
    row["action.requested"] = step.requested.vector
    row["control_mode"] = int(step.decision.mode)
    row["safety_flags"] = int(step.flags)
    row["chunk_index"] = step.decision.chunk_index
    row["chunk_step"] = step.decision.chunk_step
    row["capture_time.arm"] = arm.t
    for camera in schema.cameras:
        frame = step.obs.frames.get(camera)
        if frame is None:
            raise DataError(f"no frame of camera {camera!r} in this step; it has {sorted(step.obs.frames)}")
        row[f"capture_time.{camera}"] = frame.t
        row[f"frame_number.{camera}"] = frame.frame_number
        _store(block[IMAGES + camera], slot, frame.rgb, camera)
        if (depth := block.get(IMAGES + camera + DEPTH_SUFFIX)) is not None:
            _store(depth, slot, frame.depth_mm, camera)


def _store(images: NDArray[Any], slot: int, image: NDArray[Any], camera: str) -> None:
    if image.shape != images.shape[1:] or image.dtype != images.dtype:
        raise DataError(
            f"camera {camera!r} delivered {image.dtype} {image.shape}, the schema says {images.dtype} "
            f"{images.shape[1:]}; check the camera's width and height in the rig file"
        )
    images[slot] = image
