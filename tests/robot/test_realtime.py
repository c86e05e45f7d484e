"""The control loop's thread goes before others where that is granted, and is an ordinary one where it is not."""

import gc
import os
import threading

import pytest
from armflow.robot.realtime import OTHERS_PRIORITY, PRIORITY, realtime_priority


def test_it_is_this_thread_and_only_for_a_while():
    seen: list[int] = []
    with realtime_priority() as granted:
        inside = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
        assert inside == (os.SCHED_FIFO if granted else os.SCHED_OTHER)
        assert os.sched_getparam(0).sched_priority == (PRIORITY if granted else 0)
        assert not gc.isenabled()
        another = threading.Thread(target=lambda: seen.append(os.sched_getscheduler(0)))
        another.start()
        another.join()
    assert gc.isenabled()
    assert seen == [os.SCHED_OTHER]
    assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_OTHER


def test_threads_that_may_hold_pythons_lock_do_not_wait_for_ordinary_processes():
    over = threading.Event()
    helper = threading.Thread(target=over.wait)
    helper.start()
    ended = threading.Thread(target=lambda: None)
    ended.start()
    ended.join()
    try:
        assert helper.native_id is not None
        with realtime_priority() as granted:
            assert os.sched_getparam(helper.native_id).sched_priority == (OTHERS_PRIORITY if granted else 0)
        assert os.sched_getparam(helper.native_id).sched_priority == 0
        assert os.sched_getscheduler(helper.native_id) & ~os.SCHED_RESET_ON_FORK == os.SCHED_OTHER
        with realtime_priority():
            over.set()
            helper.join()  # it has ended when its priority is to be taken back
    finally:
        over.set()


def test_who_may_not_have_it_goes_on_without(monkeypatch: pytest.MonkeyPatch):
    def refused(pid: int, policy: int, param: os.sched_param) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refused)
    with realtime_priority() as granted:
        assert not granted
