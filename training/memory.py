"""Keep big freed blocks instead of handing them back to the kernel.

glibc maps every block over 32 MB afresh and unmaps it when it is freed, so the kernel clears the same pages again for
every tensor of every step: on a CPU up to half of a training step is spent there, and none with this.
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
THRESHOLD = 1 << 30  # bytes


def keep_freed_memory() -> None:
    """For this process, from now on. Does nothing where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
