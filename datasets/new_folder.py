"""A folder that appears whole or not at all, and one that takes another's place without a moment in which neither is there."""

import ctypes
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..robot.errors import DataError
from .layout import sync_file, sync_folder

AT_FDCWD = -100
RENAME_EXCHANGE = 2


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` to fill, which becomes `target`, durably, when the block ends without an error.

    What a killed predecessor left of it is removed: it never holds the only copy of anything. Raises DataError if
    `target` exists or another process is making it.
    """
    if target.exists():
        raise DataError(f"{target} exists; name a folder that does not")
    with filled_folder(target) as staged:
        yield staged
        sync_tree(staged)
        os.rename(staged, target)
        sync_folder(target.parent)


@contextmanager
def filled_folder(target: Path) -> Iterator[Path]:
    """As `new_folder`, but only made; whoever fills it also moves it, within the block."""
    target = target.absolute()
    staged = target.with_name(f".{target.name}.new")
    staged.mkdir(parents=True, exist_ok=True)
    lock = os.open(staged, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise DataError(f"{target}: another process is making it; wait for it or stop it") from error
    try:
        _empty(staged)
        yield staged
    except BaseException:
        if staged.exists():
            shutil.rmtree(staged)
        raise
    finally:
        os.close(lock)


def sync_tree(folder: Path) -> None:
    """Block until every file in the folder is on the disk."""
    for path, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync_file(Path(path) / name)
        sync_folder(Path(path))


def take_the_place_of(folder: Path, staged: Path, kept: Path) -> None:
    """Put `staged` where `folder` is, and keep what was there as `kept`. At every moment `folder` is one of the two.

    Raises DataError if the file system cannot exchange folders; `kept` then holds what was to take the place.
    """
    os.rename(staged, kept)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(kept), AT_FDCWD, os.fsencode(folder), RENAME_EXCHANGE):
        reason = os.strerror(ctypes.get_errno())
        raise DataError(
            f"{folder}: cannot be exchanged for its repaired copy on this file system ({reason}). Nothing was changed; "
            f"the repaired dataset is {kept}"
        )
    sync_folder(folder.parent)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
