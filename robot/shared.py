"""Arms that are open in this process, by their rig file: for an operator whom somebody else made apart from the arm.

LeRobot makes robot and teleoperator one by one, from configurations that know nothing of each other, and shows the
teleoperator no observation. Here the one finds what the other has opened.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import ConfigError
from .station import Station
from .types import ArmCommand


@dataclass(eq=False)
class SharedArm:
    """An open station, and what its arm was told last."""

    station: Station
    executed: ArmCommand | None = None  # None before the first command


_open: dict[Path, SharedArm] = {}


@contextmanager
def share(rig_file: Path, station: Station) -> Iterator[SharedArm]:
    """Let `shared_arm` find the station until the context ends. Raises ConfigError if the rig is open already."""
    key = rig_file.resolve()
    if key in _open:
        raise ConfigError(f"the rig of {rig_file} is open already in this process; close it first")
    _open[key] = SharedArm(station)
    try:
        yield _open[key]
    finally:
        del _open[key]


def shared_arm(rig_file: Path) -> SharedArm:
    """The arm that is open. Raises ConfigError listing those that are."""
    found = _open.get(rig_file.resolve())
    if found is None:
        raise ConfigError(
            f"no arm of rig file {rig_file} is open in this process (open: {', '.join(map(str, _open)) or 'none'}); "
            "connect the robot first, and give robot and operator the same rig file"
        )
    return found
