"""Broker and workers on the nodes of a cluster, as the operator configures them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple, Self

from falconas.client.sync import Client
from falconas.errors import FalconError
from tests.acceptance.stack import PATIENCE, Stack, wait_for

Section = Mapping[str, Any]


class Sample(NamedTuple):
    """One call: when, what came of it, and on which node."""

    params: dict[str, Any]
    budget: float
    began: float
    ended: float
    error: FalconError | None
    node: str

    @property
    def took(self) -> float:
        return self.ended - self.began


class Callers:
    """Threads, each with a client of its own, that call until told to stop.

    Args:
        endpoint: The broker's frontend.
        script: What they call.
        count: How many there are.
        request: Returns parameters and budget of the next call.
    """

    def __init__(
        self,
        endpoint: str,
        script: str,
        count: int,
        request: Callable[[], tuple[dict[str, Any], float]],
    ) -> None:
        self.samples: list[Sample] = []
        self._endpoint = endpoint
        self._script = script
        self._request = request
        self._news = threading.Condition()
        self._good = 0
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def await_calls(self, count: int) -> None:
        """Wait until so many more calls have succeeded."""
        with self._news:
            goal = self._good + count
            while self._good < goal:
                if not self._news.wait(PATIENCE):
                    last = "\n".join(map(repr, self.samples[-10:]))
                    raise AssertionError(f"nothing succeeds; the last ones:\n{last}")

    def _call(self) -> None:
        with Client(self._endpoint) as client:
            while not self._stopping.is_set():
                params, budget = self._request()
                began = monotonic()
                call = client.submit(self._script, params, budget=budget)
                error = None
                try:
                    call.result()
                except FalconError as failure:
                    error = failure
                node = call.info.get("node", "")
                sample = Sample(params, budget, began, monotonic(), error, node)
                with self._news:
                    self.samples.append(sample)
                    if error is None:
                        self._good += 1
                        self._news.notify()


class SeveralNodes(Stack):
    """A stack whose supervisor places workers on several nodes.

    Args:
        folder: The test's own.
        scripts: The scripts' folder.
        nodes: The sections of the nodes.
    """

    def __init__(
        self,
        folder: Path,
        scripts: Path,
        nodes: Mapping[str, Section],
    ) -> None:
        config = folder / "falconas.toml"
        config.write_text(toml({f"nodes.{name}": nodes[name] for name in nodes}))
        config.chmod(0o600)
        super().__init__(folder, "", scripts, FALCONAS_CONFIG=str(config))

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Return what the broker knows of the nodes, by name."""
        return {node["name"]: node for node in self.inspect()["nodes"]}

    def placed(self) -> dict[str, int]:
        """Return how many workers that can work are on each node."""
        found = dict.fromkeys(self.nodes(), 0)
        for worker in self.workers():
            if worker["state"] != "unready":
                found[worker["node"]] = found.get(worker["node"], 0) + 1
        return found

    def await_placed(self, **wanted: int) -> None:
        """Wait until each node has so many workers that can work."""
        try:
            wait_for(lambda: self.placed() == wanted, f"workers placed as {wanted}")
        except AssertionError as error:
            raise AssertionError(
                f"{error}, not as {self.placed()}, logs:\n{self.logs()}"
            ) from None

    def await_role(self, name: str, role: str) -> None:
        """Wait until the broker knows a node as what it is."""
        wait_for(lambda: self.nodes().get(name, {}).get("role") == role, role)


def toml(sections: Mapping[str, Section]) -> str:
    """Return a configuration of plain values and lists of words."""
    lines: list[str] = []
    for name, section in sections.items():
        lines += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in section.items())]
    return "\n".join([*lines, ""])


def write_scripts(folder: Path, scripts: Mapping[str, str]) -> Path:
    """Return a new folder with these scripts."""
    folder.mkdir()
    for name, text in scripts.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Return each one's part of all."""
    total = sum(counts.values())
    return {name: round(count / total, 3) for name, count in counts.items()}
