"""Nothing in the way of the thread that keeps the control loop's time: priority where the system grants it, no collector."""

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

PRIORITY = 10  # of 1 to 99: before everything that is ordinary, after the kernel's own threads
OTHERS_PRIORITY = 1  # of the process's other threads: before everything that is ordinary, after the loop


@contextmanager
def realtime_priority() -> Iterator[bool]:
    """SCHED_FIFO for the calling thread until the context is left. Python's garbage collector, which stops all threads for
    tens of ms, waits until then.

    The other Python threads that there are get it, too, below the caller: one of them that holds Python's lock and waits for
    a busy processor makes the loop wait with it, 5 ms now and then. What starts later is ordinary.

    Yields whether it was granted: to root, and to whom /etc/security/limits.conf gives an rtprio. `armflow doctor hardware`
    says what to do.
    """
    others = [t.native_id for t in threading.enumerate() if t.native_id not in (None, threading.get_native_id())]
    with ExitStack() as stack:
        granted = _prefer(0, PRIORITY, stack)
        for thread in others:
            _prefer(thread, OTHERS_PRIORITY, stack)
        if gc.isenabled():
            gc.disable()
            stack.callback(gc.enable)
        yield granted


def _prefer(thread: int, priority: int, until: ExitStack) -> bool:
    """Schedule a thread (0: this one) first in, first out; whether that was granted. A thread that has ended is no matter."""
    try:
        before, settings = os.sched_getscheduler(thread), os.sched_getparam(thread)
        os.sched_setscheduler(thread, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except OSError:
        return False

    def restore() -> None:
        with suppress(OSError):
            os.sched_setscheduler(thread, before, settings)

    until.callback(restore)
    return True
