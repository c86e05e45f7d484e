"""Nothing in the way of the thread that keeps the control loop's time: priority where the system grants it, no collector."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

PRIORITY = 10  # of 1 to 99: before everything that is ordinary, after the kernel's own threads


@contextmanager
def realtime_priority() -> Iterator[bool]:
    """SCHED_FIFO for the calling thread until the context is left; threads and processes that it starts are ordinary ones.
    Python's garbage collector, which stops all threads for tens of ms, waits until then.

    Yields whether it was granted: to root, and to whom /etc/security/limits.conf gives an rtprio. `armflow doctor hardware`
    says what to do.
    """
    before, settings = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))
        granted = True
    except OSError:
        granted = False
    collects = gc.isenabled()
    gc.disable()
    try:
        yield granted
    finally:
        if collects:
            gc.enable()
        if granted:
            os.sched_setscheduler(0, before, settings)
