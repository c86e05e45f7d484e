"""How every arm driver leaves its context."""

from collections.abc import Callable

from ..errors import DeviceError


def leave(come_to_rest: Callable[[], None], let_go: Callable[[], None], error: BaseException | None) -> None:
    """Come to rest, then let go, whatever the first said. `error` is what the context is left with: it stays the one to
    report, and what goes wrong on the way out becomes a note on it."""
    try:
        try:
            come_to_rest()
        finally:
            let_go()
    except DeviceError as another:
        if error is None:
            raise
        error.add_note(f"on the way out: {another}")
