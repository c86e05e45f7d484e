"""What a stereo depth camera of the RealSense kind does to perfect depth.

Disparity is f * B / z; matching errs by a fraction of a pixel and reports multiples of 1/32 px, so the error in depth grows
with z^2. No return closer than the minimum range, in the shadow beside a depth edge, and at random holes.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

BASELINE_M = 0.05  # D435
SUBPIXEL = 32.0  # disparity steps per px
MIN_RANGE_M, MAX_RANGE_M = 0.2, 3.0
EDGE_JUMP = 0.08  # relative depth step between neighbours that counts as an edge
HOLE_RATE = 0.002  # share of pixels without a return for no visible reason
NATIVE_WIDTH = 640.0  # px: the sensor matches at this width whatever size is delivered


def stereo_depth_mm(
    depth_m: NDArray[np.float32], fx: float, sigma_px: float, rng: np.random.Generator
) -> NDArray[np.uint16]:
    """True depth (h, w) in m -> measured depth (h, w) in mm, 0 = no return. `sigma_px` = 0 only rounds to mm."""
    in_range = (depth_m > MIN_RANGE_M) & (depth_m < MAX_RANGE_M)
    if sigma_px == 0.0:
        return np.where(in_range, np.rint(depth_m * 1000), 0).astype(np.uint16)
    focal = fx * NATIVE_WIDTH / depth_m.shape[1]
    disparity = focal * BASELINE_M / np.maximum(depth_m, 0.05)
    noisy = disparity + sigma_px * rng.standard_normal(depth_m.shape, dtype=np.float32)
    measured = focal * BASELINE_M / np.maximum(np.rint(noisy * SUBPIXEL) / SUBPIXEL, 1.0 / SUBPIXEL)
    near = cv2.erode(depth_m, np.ones((3, 3), np.uint8))
    shadow = depth_m - near > EDGE_JUMP * near
    hole = rng.random(depth_m.shape, dtype=np.float32) < HOLE_RATE
    return np.where(in_range & ~shadow & ~hole, np.rint(measured * 1000), 0).astype(np.uint16)
