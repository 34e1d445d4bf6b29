"""Precedence over what else runs on the machine, so that figures mean something there.

Linux shares the processors between sessions first (autogroup), and only within one by
niceness. So the weight of each session that belongs to the run is raised. What runs in
the sessions shares as ever: one peer has no advantage over another by it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from bench import spent


def take(nice: int, roots: Iterable[int]) -> None:
    """Raise processes, all their descendants and the sessions of these."""
    for pid in spent.tree(roots):
        try:
            os.setpriority(os.PRIO_PROCESS, pid, nice)
            Path(f"/proc/{pid}/autogroup").write_text(str(nice))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended, or the kernel has no such groups
