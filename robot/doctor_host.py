"""The computer beside the arm: can it keep time, write fast enough, and talk to what is plugged in?"""

import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .clock import Clock
from .findings import Finding

TICK_HZ = 200.0  # of the servo
LATE_S = 0.005  # a servo tick later than this is felt by an arm that extrapolates
MB = 1e6
WRITE_MB = 64  # written and synced to measure a disk
NEEDED_MB_S = 120.0  # two cameras of 640 x 480 RGB-D at 30 Hz: 30 * 2 * 640 * 480 * 5 B is 92 MB/s before compression
NEEDED_GB = 20.0
NEEDED_USB_MB = 128  # of kernel buffers for two cameras


def check_clock(clock: Clock, seconds: float) -> Finding:
    """How late a thread wakes that wants to tick at the servo's rate."""
    period, late = 1 / TICK_HZ, []
    start = clock.now()
    for i in range(1, max(2, round(seconds * TICK_HZ))):
        due = start + i * period
        clock.sleep_until(due)
        late.append(clock.now() - due)
    worst, usual = max(late), float(np.quantile(late, 0.99))
    found = f"ticks at {TICK_HZ:g} Hz come {usual * 1e3:.2f} ms late (99 %), {worst * 1e3:.1f} ms at worst"
    if usual > LATE_S:
        return Finding("error", "clock", found, "too busy or asleep: end other programs, governor 'performance'")
    advice = "" if worst <= LATE_S else "end other programs; a PREEMPT_RT kernel helps against single late ones"
    return Finding("ok" if worst <= LATE_S else "warning", "clock", found, advice)


def check_clock_source(root: Path = Path("/")) -> Finding:
    """The kernel's clock: reading some takes microseconds, and they may step."""
    path = root / "sys/devices/system/clocksource/clocksource0/current_clocksource"
    source = path.read_text().strip() if path.is_file() else "unknown"
    if source in ("tsc", "kvm-clock", "arch_sys_counter"):
        return Finding("ok", "clock source", source)
    return Finding(
        "warning", "clock source", source, "slow to read; see why the kernel gave up on tsc: dmesg | grep -i tsc"
    )


def check_realtime(root: Path = Path("/")) -> Iterator[Finding]:
    """Kernel, priority limit and frequency governor."""
    flag = root / "sys/kernel/realtime"
    if flag.is_file() and flag.read_text().strip() == "1":
        yield Finding("ok", "kernel", "PREEMPT_RT")
    else:
        yield Finding("warning", "kernel", "not PREEMPT_RT", "Franka asks for one; without it packets may come late and "
                      "the arm stop")  # fmt: skip
    limit = resource.getrlimit(resource.RLIMIT_RTPRIO)[1]
    if os.geteuid() == 0 or limit == resource.RLIM_INFINITY or limit > 0:
        yield Finding("ok", "real-time priority", "this user may have it")
    else:
        yield Finding("warning", "real-time priority", "this user may not have it",
                      "in /etc/security/limits.conf: '@realtime - rtprio 99' and '@realtime - memlock unlimited', join "
                      "that group, log in again")  # fmt: skip
    governors = {p.read_text().strip() for p in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")}
    if governors - {"performance"}:
        yield Finding("warning", "CPU governor", ", ".join(sorted(governors)), "cpupower frequency-set -g performance")
    elif governors:
        yield Finding("ok", "CPU governor", "performance")


def check_usb(root: Path = Path("/"), cameras: int = 2) -> Finding:
    """Kernel memory for USB transfers; what one camera needs stalls two."""
    path = root / "sys/module/usbcore/parameters/usbfs_memory_mb"
    if not path.is_file():
        return Finding(
            "warning", "USB", "this kernel has no USB", "cameras need it; is this a container or a virtual machine?"
        )
    mb = int(path.read_text())
    if cameras > 1 and 0 < mb < NEEDED_USB_MB:
        found = f"usbfs_memory_mb is {mb}, {cameras} cameras want {NEEDED_USB_MB}"
        return Finding("warning", "USB", found, f"as root: echo {NEEDED_USB_MB} > {path}, and usbcore.usbfs_memory_mb="
                       f"{NEEDED_USB_MB} on the kernel's command line")  # fmt: skip
    return Finding("ok", "USB", f"usbfs_memory_mb is {mb}")


def check_disk(folder: Path) -> Iterator[Finding]:
    """Room, and how fast data really reaches the disk that recordings will go to. Leaves nothing behind."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(there).free
    found = f"{free / 1e9:.0f} GB free for {folder}"
    if free < NEEDED_GB * 1e9:
        yield Finding("warning", "disk space", found, f"a day of recording wants {NEEDED_GB:g} GB or more")
    else:
        yield Finding("ok", "disk space", found)
    if not os.access(there, os.W_OK):
        yield Finding(
            "error", "disk", f"{there} may not be written", "choose another --data folder, or change its owner"
        )
        return
    if free < 4 * WRITE_MB * MB:
        yield Finding("error", "disk", found, "make room: not even a test file fits")
        return
    rate = _write_rate(there / f".armflow-doctor-{os.getpid()}")
    found = f"{rate:.0f} MB/s, synced"
    if rate < NEEDED_MB_S:
        yield Finding("warning", "disk", found, f"two cameras bring up to {NEEDED_MB_S:g} MB/s: record to a local SSD")
    else:
        yield Finding("ok", "disk", found)


def _write_rate(path: Path) -> float:
    block = np.random.default_rng(0).bytes(int(MB))  # a file system that compresses shall not look fast
    start = time.monotonic()
    try:
        with path.open("wb") as file:
            for _ in range(WRITE_MB):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    finally:
        path.unlink(missing_ok=True)
    return WRITE_MB / (time.monotonic() - start)
