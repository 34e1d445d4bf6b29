"""Load with a history, and the checker that reads it.

Each call carries a nonce. The clients write down what they were told, the scripts what
they did (the witness file), the database what was committed; `History.check` joins the
three.
"""

from __future__ import annotations

import random
import shutil
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Self

import psycopg

from falconas.client.sync import Client
from falconas.errors import FalconError, Started
from tests.acceptance.stack import wait_for

HERE = Path(__file__).parent
WRITE = "nonce_order"
READS = ("nonce_echo", "nonce_read")


def make_scripts(folder: Path) -> Path:
    """Return a folder with the example scripts and those that bear witness."""
    scripts = folder / "scripts"
    shutil.copytree(HERE.parents[1] / "workers", scripts)
    for path in (HERE / "scripts").glob("*.py"):
        shutil.copy(path, scripts)
    return scripts


@dataclass
class Verdict:
    """What a client was told about one call."""

    nonce: str
    script: str
    began: float
    ended: float
    error: FalconError | None
    value: Any
    info: dict[str, Any]


@dataclass
class History:
    """All that is known of a storm."""

    witness: Path
    dsn: str
    verdicts: list[Verdict] = field(default_factory=list)
    submitted: Counter[str] = field(default_factory=Counter)
    last_resorts: int = 0

    def started(self) -> dict[str, list[tuple[str, int, bool]]]:
        """Return for each nonce its starts: script, pid, and whether it ended."""
        starts: dict[str, list[tuple[str, int, bool]]] = {}
        for line in self.witness.read_text().splitlines():
            event, nonce, pid, script = line.split()
            runs = starts.setdefault(nonce, [])
            if event == "start":
                runs.append((script, int(pid), False))
            else:
                runs[-1] = (script, int(pid), True)
        return starts

    def committed(self) -> Counter[str]:
        with psycopg.connect(self.dsn) as connection:
            rows = connection.execute(
                "SELECT o_comment, count(*) FROM orders WHERE o_clerk = 'storm'"
                " GROUP BY o_comment"
            ).fetchall()
        return Counter(dict(rows))

    def check(self) -> Counter[str]:
        """Raise AssertionError unless every guarantee held; return the figures."""
        verdicts = Counter(v.nonce for v in self.verdicts)
        assert verdicts == self.submitted, "not exactly one verdict for each call"
        assert self.last_resorts == 0, "the library had to answer in the broker's place"

        starts, committed = self.started(), self.committed()
        for nonce, runs in starts.items():
            most = 1 if runs[0][0] == WRITE else 2
            assert len(runs) <= most, f"{nonce} was started {len(runs)} times: {runs}"
        assert not [n for n, times in committed.items() if times > 1], "twice committed"

        acknowledged = set()
        for verdict in self.verdicts:
            nonce, error = verdict.nonce, verdict.error
            if error is None:
                assert verdict.value["nonce"] == nonce, "somebody else's reply"
                assert nonce in starts, "answered but never started"
                if verdict.script == WRITE:
                    acknowledged.add(nonce)
            elif error.started is Started.NO:
                assert nonce not in starts, f"{nonce} was started: {error!r}"
                assert nonce not in committed
        unknown = {
            v.nonce
            for v in self.verdicts
            if v.error is not None
            and v.script == WRITE
            and v.error.started is Started.UNKNOWN
        }
        missing = acknowledged - set(committed)
        assert not missing, f"acknowledged but not committed: {missing}"
        stray = set(committed) - acknowledged - unknown
        assert not stray, f"committed, but the verdict said otherwise: {stray}"
        errors = Counter(v.error.code.name for v in self.verdicts if v.error)
        return Counter(
            calls=len(self.verdicts),
            errors=errors.total(),
            orders=len(committed),
            acknowledged=len(acknowledged),
            unknown=len(unknown),
            **{f"code_{name}": count for name, count in errors.items()},
        )


class Load:
    """Clients, each with a thread of its own, that call until told to stop."""

    def __init__(
        self,
        history: History,
        frontend: str,
        clients: int,
        seed: int,
        *,
        depth: int = 1,
        budget: float = 20.0,
    ) -> None:
        self.history = history
        self.stopping = threading.Event()
        self.done = 0
        self._frontend = frontend
        self._budget = budget
        self._depth = depth
        self._lock = threading.Lock()
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(number, seed))
            for number in range(clients)
        ]

    def await_calls(self, count: int) -> None:
        """Wait until so many more calls have their verdict."""
        goal = self.done + count
        wait_for(lambda: self.done >= goal or self.stopping.is_set(), "the load")

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise self._failures[0]

    def _run(self, number: int, seed: int) -> None:
        try:
            dice = random.Random(seed * 1000 + number)
            with Client(self._frontend) as client:
                turn = 0
                while not self.stopping.is_set():
                    self._calls(client, dice, f"storm-{seed}-{number}-{turn}")
                    turn += 1
                resorts = client.stats().get("last_resort", 0)
            with self._lock:
                self.history.last_resorts += resorts
        except BaseException as failure:
            self._failures.append(failure)
            self.stopping.set()

    def _calls(self, client: Client, dice: random.Random, name: str) -> None:
        calls = []
        for place in range(self._depth):
            nonce = f"{name}-{place}"
            script = WRITE if dice.random() < 0.5 else dice.choice(READS)
            params: dict[str, Any] = {"nonce": nonce}
            if script != "nonce_echo":
                params["customer_id"] = dice.randrange(1, 1000)
            with self._lock:
                self.history.submitted[nonce] += 1
            began = monotonic()
            call = client.submit(script, params, budget=self._budget)
            calls.append((nonce, script, began, call))
        for nonce, script, began, call in calls:
            error, value = None, None
            try:
                value = call.result()
            except FalconError as failure:
                error = failure
            verdict = Verdict(
                nonce, script, began, monotonic(), error, value, dict(call.info)
            )
            with self._lock:
                self.history.verdicts.append(verdict)
                self.done += 1
