"""The example web application, over HTTP, while its nodes come and go."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from falconas.database.cluster import EmbeddedCluster
from tests.acceptance.stack import PATIENCE, wait_for
from tests.integration.database.lending_cases import replay_paused

WEB = Path(__file__).parents[2] / "deploy" / "examples" / "web"
NODES = ("n1", "n2", "n3")


class Answer(NamedTuple):
    status: int
    body: Any
    cookie: str


class Browser:
    """Asks the application by HTTP; one connection for each request."""

    def __init__(self, url: str) -> None:
        self.host = url.removeprefix("http://").strip()

    def ask(self, method: str, path: str, cookie: str = "") -> Answer:
        connection = HTTPConnection(self.host, timeout=PATIENCE)
        try:
            connection.request(method, path, headers={"Cookie": cookie})
            reply = connection.getresponse()
            set_cookie = reply.headers.get("Set-Cookie", "").partition(";")[0]
            return Answer(reply.status, json.loads(reply.read()), set_cookie)
        finally:
            connection.close()

    def get(self, path: str, cookie: str = "") -> Answer:
        return self.ask("GET", path, cookie)

    def buy(self, item: int) -> Answer:
        return self.ask("POST", f"/item/{item}/buy")

    def nodes(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/nodes").body["nodes"]
        return found


@pytest.fixture
def environ(
    cluster: EmbeddedCluster, cluster_database: str, tmp_path: Path
) -> dict[str, str]:
    """The environment of the application, on a database with its schema."""
    with psycopg.connect(cluster.primary.dsn(cluster_database)) as connection:
        connection.execute((WEB / "schema.sql").read_bytes())
    cluster.wait_until_caught_up()
    text = (WEB / "falconas.toml").read_text()
    assert 'dsn = "dbname=shop user=web connect_timeout=3"' in text
    text = text.replace("dbname=shop user=web ", "")
    for number, name in enumerate(NODES, 1):
        dsn = cluster[name].dsn(cluster_database)
        assert f'dsn = "host=db{number}"' in text
        text = text.replace(f'"host=db{number}"', json.dumps(dsn))
    config = tmp_path / "falconas.toml"
    config.write_text(text)
    config.chmod(0o600)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FALCONAS_")}
    return {**kept, "FALCONAS_CONFIG": str(config)}


@pytest.fixture
def browser(environ: dict[str, str], tmp_path: Path) -> Iterator[Browser]:
    with (
        (tmp_path / "web.log").open("w") as log,
        subprocess.Popen(
            [sys.executable, WEB / "wsgi.py", "0"],
            env=environ,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            browser = Browser(process.stdout.readline())
            assert browser.get("/item/1").status == 200  # opens the pool
            wait_for(
                lambda: all(node["up"] for node in browser.nodes().values()),
                "three nodes",
            )
            yield browser
        finally:
            process.kill()


def test_looks_go_to_all_nodes_by_weight_and_purchases_to_the_primary(
    browser: Browser, cluster: EmbeddedCluster
) -> None:
    with ThreadPoolExecutor(8) as threads:
        looks = list(threads.map(browser.get, ["/item/1"] * 120))
        purchases = list(threads.map(browser.buy, [1] * 30))
    assert {answer.status for answer in looks + purchases} == {200}
    assert sorted(answer.body["stock"] for answer in purchases) == list(range(70, 100))
    ports = Counter(answer.body["port"] for answer in looks)
    assert set(ports) == {cluster[name].port for name in NODES}
    assert ports[cluster["n3"].port] > ports[cluster["n2"].port]


def test_who_has_bought_sees_it_although_the_standbys_do_not_yet(
    browser: Browser, cluster: EmbeddedCluster
) -> None:
    with replay_paused(cluster, "n2", "n3"):
        bought = browser.buy(2)
        seen = [browser.get("/item/2", bought.cookie) for _ in range(10)]
    assert bought.status == 200
    assert {(s.body["stock"], s.body["port"]) for s in seen} == {
        (99, cluster["n1"].port)
    }


def test_a_promotion_needs_no_restart(
    browser: Browser, cluster: EmbeddedCluster
) -> None:
    bought = browser.buy(3)
    cluster.wait_until_caught_up()
    cluster["n1"].kill()
    cluster.promote(cluster["n2"])

    # 503 says that nothing was done, so that one may try until it is.
    again: Answer = wait_for(
        lambda: (answer := browser.buy(3)).status != 503 and answer, "a purchase"
    )

    assert (bought.status, again.status) == (200, 200)
    assert again.body["stock"] == bought.body["stock"] - 1
    assert browser.get("/item/3", again.cookie).body["stock"] == again.body["stock"]
    nodes = browser.nodes()
    assert not nodes["n1"]["up"]
    assert nodes["n2"]["role"] == "primary"


def test_what_is_wrong_is_told(browser: Browser) -> None:
    for method, path, cookie, status in (
        ("GET", "/item/9", "", 404),
        ("POST", "/item/9/buy", "", 409),
        ("GET", "/item/x", "", 404),
        ("GET", "/item/99999999999", "", 404),
        ("DELETE", "/item/1", "", 404),
        ("GET", "/item/1", "lsn=nonsense", 200),
        ("GET", "/item/1", "\x00;=", 200),
    ):
        assert browser.ask(method, path, cookie).status == status, path


def test_the_asgi_twin_says_the_same(
    environ: dict[str, str],
    cluster: EmbeddedCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FALCONAS_CONFIG", environ["FALCONAS_CONFIG"])
    monkeypatch.syspath_prepend(WEB)
    application = importlib.import_module("asgi").application
    try:
        with replay_paused(cluster, "n2", "n3"):
            bought, seen, missing = asyncio.run(_in_asgi(application))
    finally:
        for name in ("asgi", "shop"):
            del sys.modules[name]
    assert (bought.status, bought.body) == (200, {"stock": 99})
    assert (seen.status, seen.body["stock"]) == (200, 99)
    assert missing.status == 404


async def _in_asgi(application: Callable[..., Any]) -> list[Answer]:
    """Do what an ASGI server does with three requests."""
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    life = asyncio.create_task(application({"type": "lifespan"}, events.get, said.put))
    events.put_nowait({"type": "lifespan.startup"})
    assert (await said.get())["type"] == "lifespan.startup.complete"

    async def ask(method: str, path: str, cookie: str = "") -> Answer:
        headers = [(b"cookie", cookie.encode())]
        scope = {"type": "http", "method": method, "path": path, "headers": headers}
        await application(scope, events.get, said.put)
        start, body = await said.get(), await said.get()
        cookie = dict(start["headers"]).get(b"set-cookie", b"").decode()
        return Answer(start["status"], json.loads(body["body"]), cookie.split(";")[0])

    bought = await ask("POST", "/item/1/buy")
    seen = await ask("GET", "/item/1", bought.cookie)
    answers = [bought, seen, await ask("GET", "/item")]
    events.put_nowait({"type": "lifespan.shutdown"})
    assert (await said.get())["type"] == "lifespan.shutdown.complete"
    await life
    return answers
