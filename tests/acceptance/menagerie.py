"""The zoo's keepers: hostile scripts one by one on workers of their own, all watched.

A cage is a supervisor with one worker that serves all scripts of the zoo. Each beast
is let out there, and then it is looked whether the cage is as clean as a new one. At
the same time honest clients are served by the neighbours.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Self

import psycopg

from falconas.client.sync import Client
from falconas.errors import Code, FalconError, Started
from tests.acceptance.stack import Stack, is_alive, wait_for

HERE = Path(__file__).parent
ZOO = HERE / "zoo"
CAGES = 3
NEIGHBOURS = 2
LIMITS = {
    "FALCONAS_WORKER__ADDRESS_SPACE": "2GiB",
    "FALCONAS_WORKER__RECYCLE_MEMORY": "250MiB",
}
SCHEMA = (
    "CREATE TABLE traces (item text)",
    "GRANT ALL ON traces TO PUBLIC",
    "CREATE ROLE zoo_visitor",
)


@dataclass(frozen=True)
class Beast:
    """A hostile script and what is to become of it.

    Attributes:
        name: `module.function` in the folder `zoo`.
        codes: One of these is the verdict.
        started: What an error says of the start.
        retry_safe: What an error says of trying again.
        text: Stands in the error's message.
        replaced: A fresh worker takes the place; None: it may.
        committed: How many times what it wrote was committed.
        budget: Seconds for it.
    """

    name: str
    codes: frozenset[Code] = frozenset({Code.OK})
    started: Started = Started.YES
    retry_safe: bool = False
    text: str = ""
    replaced: bool | None = False
    committed: int = 0
    budget: float = 10.0

    @property
    def script(self) -> str:
        return self.name.rpartition(".")[2]


@dataclass
class Visit:
    """What happened when a beast was let out."""

    value: Any = None
    error: FalconError | None = None
    took: float = 0.0
    fresh: dict[str, Any] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)
    after: list[dict[str, Any]] = field(default_factory=list)
    committed: int = 0
    failure: BaseException | None = None


def build(folder: Path, cage: str, names: Iterable[str]) -> Path:
    """Make a scripts folder in which each function of the zoo is a script."""
    scripts = folder / cage
    (scripts / cage).mkdir(parents=True)
    shutil.copytree(ZOO, scripts / "_zoo")
    shutil.copy(HERE.parent / "session_probe.py", scripts / "_zoo")
    for name in names:
        module, _, function = name.rpartition(".")
        source = f"from _zoo.{module} import {function} as run\n"
        (scripts / cage / f"{function}.py").write_text(source)
    return scripts


class Menagerie:
    """A stack with cages and neighbours; `visits` is filled by `open`."""

    def __init__(self, folder: Path, dsn: str, beasts: list[Beast]) -> None:
        self.beasts = beasts
        self.visits: dict[str, Visit] = {}
        self.honest_calls = 0
        self.honest_errors: list[BaseException] = []
        self.stack = Stack(folder, dsn, folder)
        self._dsn = dsn
        self._stop = threading.Event()
        self._lock = threading.Lock()
        # Whether some are replaced is seen late: nobody comes after them who may not.
        self._queue = sorted(beasts, key=lambda beast: beast.replaced is None)

    def __enter__(self) -> Self:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            for statement in SCHEMA:
                connection.execute(statement)
        # A cage has one worker only: what comes while it is replaced has to wait.
        self.stack.start_broker(FALCONAS_BROKER__WORKER_WAIT="10s")
        names = [beast.name for beast in self.beasts]
        for number in range(CAGES):
            cage = f"cage{number}"
            scripts = build(self.stack.folder, cage, [*names, "probe.probe"])
            self._start(cage, scripts, 1, **LIMITS)
        scripts = build(self.stack.folder, "next_door", ["honest.honest"])
        self._start("next_door", scripts, NEIGHBOURS)
        self.stack.await_workers(CAGES + NEIGHBOURS)
        return self

    def __exit__(self, *details: object) -> None:
        self.stack.__exit__(*details)

    def open(self) -> None:
        """Let the beasts out, as many at a time as there are cages."""
        neighbours = [threading.Thread(target=self._be_honest) for _ in range(2)]
        keepers = [
            threading.Thread(target=self._keep, args=[f"cage{number}"])
            for number in range(CAGES)
        ]
        for thread in (*neighbours, *keepers):
            thread.start()
        for thread in keepers:
            thread.join()
        self._stop.set()
        for thread in neighbours:
            thread.join()
        with psycopg.connect(self._dsn) as connection:
            for (item,) in connection.execute("SELECT item FROM traces").fetchall():
                self.visits[item.rpartition(".")[2]].committed += 1

    def _start(self, group: str, scripts: Path, count: int, **environ: str) -> None:
        self.stack.start_workers(
            count,
            FALCONAS_WORKER__GROUP=group,
            FALCONAS_WORKER__SCRIPTS=str(scripts),
            **environ,
        )

    def _be_honest(self) -> None:
        with self.stack.client() as client:
            nonce = threading.get_ident()
            while not self._stop.wait(0.01):
                nonce += 1
                try:
                    answer = client.call("next_door.honest", {"nonce": nonce})
                    assert answer == nonce, "somebody else's answer"
                except BaseException as error:
                    self.honest_errors.append(error)
                with self._lock:
                    self.honest_calls += 1

    def _keep(self, cage: str) -> None:
        with self.stack.client() as client:
            fresh = before = self._probe(client, cage, "fresh")
            while True:
                with self._lock:
                    if not self._queue:
                        return
                    beast = self._queue.pop(0)
                visit = Visit(fresh=fresh, before=before)
                try:
                    self._visit(client, cage, beast, visit)
                except BaseException as failure:
                    visit.failure = failure
                self.visits[beast.script] = visit
                before = visit.after[-1] if visit.after else before

    def _visit(self, client: Client, cage: str, beast: Beast, visit: Visit) -> None:
        began = monotonic()
        try:
            visit.value = client.call(f"{cage}.{beast.script}", budget=beast.budget)
        except FalconError as error:
            visit.error = error
        visit.took = monotonic() - began
        visit.after.append(self._probe(client, cage, beast.script))
        if beast.replaced:
            old = visit.before["pid"]

            def replaced() -> bool:
                visit.after.append(self._probe(client, cage, beast.script))
                return visit.after[-1]["pid"] != old and not is_alive(old)

            wait_for(replaced, f"another worker than {old}")

    @staticmethod
    def _probe(client: Client, cage: str, nonce: str) -> dict[str, Any]:
        """Make the next request in the cage, which tells what is left there."""
        probe: dict[str, Any] = client.call(f"{cage}.probe", {"nonce": nonce})
        assert probe["nonce"] == nonce, "somebody else's answer"
        return probe
