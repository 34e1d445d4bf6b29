"""Reloads scripts when a file of theirs changes, for `falconas dev`."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# So long nothing else must change, as editors and version control write in bursts.
PAUSE_MS = 100

log = logging.getLogger("falconas.dev")


@contextmanager
def reloading(folder: Path, reload: Callable[[], None]) -> Iterator[None]:
    """Call `reload` when a script in the folder has changed, or a helper of theirs."""
    try:
        from watchfiles import watch
    except ImportError:
        log.warning(
            "changed scripts are not reloaded by themselves:"
            " pip install 'falconas[dev]', or use `falconas reload`"
        )
        yield
        return
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # we say it better
    stop = threading.Event()

    def follow() -> None:
        try:
            for changes in watch(
                folder,
                watch_filter=lambda _, path: is_script(path, folder),
                step=PAUSE_MS,
                stop_event=stop,
                ignore_permission_denied=True,
            ):
                log.info("changed: %s", named({path for _, path in changes}, folder))
                reload()
        except Exception as error:
            log.warning("changed scripts are no longer reloaded: %s", error)

    thread = threading.Thread(target=follow, name="falconas-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def is_script(path: str, folder: Path) -> bool:
    """Tell whether a file may be one that scripts are made of."""
    inside = Path(os.path.relpath(path, folder))
    hidden = any(part.startswith(".") and part != ".." for part in inside.parts)
    return inside.suffix == ".py" and not hidden


def named(paths: set[str], folder: Path) -> str:
    """Name a few of the files that changed."""
    names = sorted(os.path.relpath(path, folder) for path in paths)
    shown, more = names[:3], len(names) - 3
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
