from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from falconas import config
from falconas.config import ConfigError, Settings, load, resolve
from falconas.settings import Group, Node


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "falconas.toml"


def fails(
    path: Path | None = None,
    environ: dict[str, str] | None = None,
    options: dict[str, dict[str, Any]] | None = None,
) -> str:
    """Return the one line of the error."""
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {}, options or {})
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_nothing_gives_the_defaults() -> None:
    assert load(None, {}, {}) == Settings()


def test_rising_precedence(file: Path) -> None:
    file.write_text('[broker]\nbudget = "1s"\nqueue_bytes = "1MiB"\nworker_wait = 2\n')
    environ = {"FALCONAS_BROKER__BUDGET": "2s", "FALCONAS_BROKER__WORKER_WAIT": "3"}
    options = {"broker": {"budget": "4s"}}
    loaded = resolve(file, environ, options)
    assert loaded.settings.broker.queue_bytes == 1 << 20
    assert loaded.settings.broker.worker_wait == 3.0
    assert loaded.settings.broker.budget == 4.0
    assert loaded.origins["broker.queue_bytes"] == str(file)
    assert loaded.origins["broker.worker_wait"] == "FALCONAS_BROKER__WORKER_WAIT"
    assert loaded.origins["broker.budget"] == "--budget"
    assert loaded.origins["broker.frontend"] == "default"


def test_options_may_be_typed() -> None:
    settings = load(None, {}, {"broker": {"insecure": True}, "worker": {"count": 3}})
    assert settings.broker.insecure is True
    assert settings.worker.count == 3


def test_who_dials_follows_who_listens() -> None:
    environ = {
        "FALCONAS_BROKER__BACKEND": "tcp://*:7001",
        "FALCONAS_BROKER__CONTROL": "ipc:///run/c",
        "FALCONAS_CLIENT__CONTROL": "tcp://far:7002",
    }
    loaded = resolve(None, environ, {})
    assert loaded.settings.broker.backend == "tcp://*:7001"
    assert loaded.settings.worker.backend == "tcp://127.0.0.1:7001"
    assert loaded.settings.worker.control == "ipc:///run/c"
    assert loaded.settings.client.control == "tcp://far:7002"
    assert loaded.origins["worker.control"] == (
        "broker.control, FALCONAS_BROKER__CONTROL"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[brokr]\n", ["unknown section [brokr]", "did you mean [broker]?"]),
        ("[zzz]\n", ["unknown section [zzz]", "known are [broker], [worker]"]),
        (
            "[broker]\nfronted = 1\n",
            ["broker.fronted", "did you mean broker.frontend?"],
        ),
        ("[broker]\nscripts = 1\n", ["broker.scripts", "did you mean worker.scripts?"]),
        ("[log]\nzzz = 1\n", ["log.zzz", "known are log.level, log.format"]),
        ("broker = 3\n", ["broker must be a section: [broker]"]),
        ("[broker]\nbudget = true\n", ["broker.budget must be a duration", "got true"]),
        (
            "[broker]\nqueue_bytes = '9M'\n",
            ["broker.queue_bytes must be a size", '"9M"'],
        ),
        ("[worker]\ncount = '2'\n", ["worker.count must be a whole number", '"2"']),
        ("[worker]\ncount = -1\n", ["worker.count must be a whole number", "got -1"]),
        ("[log]\nlevel = 'loud'\n", ["one of debug, info", '"loud"']),
        ("[log]\nlevel = 2024-01-01\n", ["one of debug, info", "got a date"]),
        (
            "[client]\nfrontend = 'h:1'\n",
            ["client.frontend", "tcp://HOST:PORT", '"h:1"'],
        ),
        ("[broker\n", ["is not TOML", "line 1"]),
    ],
)
def test_a_wrong_file_names_file_key_and_remedy(
    file: Path, text: str, words: list[str]
) -> None:
    file.write_text(text)
    error = fails(file)
    assert error.startswith(f"{file}: ")
    for word in words:
        assert word in error


def test_unreadable_files(file: Path, tmp_path: Path) -> None:
    assert "there is no such file; `falconas config example`" in fails(file)
    assert "cannot be read: Is a directory" in fails(tmp_path)
    file.write_bytes(b"a\xff")
    assert fails(file) == f"{file}: is not UTF-8 at byte 1"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("FALCONAS_BROKER__FRONTED", "x", ["unknown", "FALCONAS_BROKER__FRONTEND?"]),
        ("FALCONAS_Q__Q", "x", ["unknown variable FALCONAS_Q__Q", "config example"]),
        ("FALCONAS_WORKER__COUNT", "two", ["FALCONAS_WORKER__COUNT must be", '"two"']),
        ("FALCONAS_BROKER__INSECURE", "?", ["must be true or false"]),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str, words: list[str]) -> None:
    error = fails(environ={name: value})
    for word in words:
        assert word in error


def test_other_variables_are_not_ours() -> None:
    environ = {"FALCONAS_CONFIG": "x", "FALCONAS": "y", "MY__VAR": "z"}
    loaded = resolve(None, environ, {})
    assert loaded.settings == Settings()
    assert loaded.warnings == []


def test_a_single_underscore_is_warned_of() -> None:
    loaded = resolve(None, {"FALCONAS_BROKER_QUEUE_BYTES": "1"}, {})
    (warning,) = loaded.warnings
    assert "FALCONAS_BROKER_QUEUE_BYTES is not read" in warning
    assert "did you mean FALCONAS_BROKER__QUEUE_BYTES?" in warning


def test_a_wrong_option_is_named() -> None:
    assert fails(options={"worker": {"count": "x"}}).startswith("--count must be")
    assert "unknown option broker.fronted" in fails(options={"broker": {"fronted": 1}})


@pytest.mark.parametrize("dsn", ["host=h password=hidden", "postgresql://u:hidden@h/d"])
def test_a_password_is_refused_on_the_command_line(dsn: str) -> None:
    error = fails(options={"database": {"dsn": dsn}})
    for word in ("--dsn", "PGPASSFILE", "service", "FALCONAS_DATABASE__DSN", "file"):
        assert word in error
    assert "hidden" not in error


def test_a_dsn_without_password_is_fine_there() -> None:
    dsn = "host=h dbname=d"
    assert load(None, {}, {"database": {"dsn": dsn}}).database.dsn == dsn
    secret = "host=h password=hidden"
    assert load(None, {"FALCONAS_DATABASE__DSN": secret}, {}).database.dsn == secret


def test_no_error_prints_a_secret(file: Path) -> None:
    assert fails(environ={"FALCONAS_DATABASE__DSN": "password=hid\nden"}) == (
        "FALCONAS_DATABASE__DSN must be a text without control characters"
    )
    file.write_text("[database]\ndsn = ['hidden']\n")
    assert fails(file) == f"{file}: database.dsn must be a text, got an array"


def test_a_readable_file_with_a_password_is_warned_of(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text("[database]\ndsn = 'password=hidden'\n")
    file.chmod(0o644)
    (warning,) = resolve(file, {}, {}).warnings
    assert warning.startswith(f"{file} holds a password")
    assert "chmod 640" in warning
    with caplog.at_level(logging.WARNING):
        load(file, {}, {})
    assert warning in caplog.text
    file.chmod(0o640)
    assert resolve(file, {}, {}).warnings == []


def test_a_readable_file_without_a_password_is_fine(file: Path) -> None:
    file.write_text("[database]\ndsn = 'host=h'\n")
    file.chmod(0o644)
    assert resolve(file, {}, {}).warnings == []


def test_the_file_is_the_told_one_else_the_one_at_hand(
    file: Path, tmp_path: Path
) -> None:
    environ = {"FALCONAS_CONFIG": "/etc/f.toml"}
    assert config.locate(None, {}, tmp_path) is None
    file.write_text("")
    assert config.locate(None, {}, tmp_path) == file
    assert config.locate(None, environ, tmp_path) == Path("/etc/f.toml")
    assert config.locate("x.toml", environ, tmp_path) == Path("x.toml")
    assert config.locate(None, {"FALCONAS_CONFIG": ""}, tmp_path) == file


NODES = """
[database]
dsn = "dbname=shop"
[nodes.n1]
dsn = "host=a"
weight = 2
tags = ["ssd", "near"]
[nodes.n2]
dns = true
[groups.reports]
scripts = ["reports.*"]
nodes = ["ssd"]
access = "read"
statement_timeout = "5s"
[groups.all]
"""


def test_nodes_and_groups_have_sections_of_their_own(file: Path) -> None:
    file.write_text(NODES)
    loaded = resolve(file, {}, {})
    settings = loaded.settings
    assert settings.nodes == {
        "n1": Node(dsn="host=a", weight=2.0, tags=("ssd", "near")),
        "n2": Node(dns=True),
    }
    assert settings.groups == {
        "reports": Group(
            scripts=("reports.*",),
            nodes=("ssd",),
            access="read",
            statement_timeout=5.0,
        ),
        "all": Group(),
    }
    assert list(settings.groups) == ["reports", "all"]
    assert loaded.origins["nodes.n1.dsn"] == str(file)
    assert loaded.origins["groups.all.size"] == "default"
    assert loaded.warnings == []


def test_the_environment_changes_and_adds_nodes_and_groups(file: Path) -> None:
    file.write_text(NODES)
    environ = {
        "FALCONAS_NODES__N1__WEIGHT": "0.5",
        "FALCONAS_NODES__N_3__TAGS": "x, y",
        "FALCONAS_GROUPS__NIGHT__SIZE": "4",
        "FALCONAS_GROUPS": "night,reports",
    }
    loaded = resolve(file, environ, {})
    assert loaded.settings.nodes["n1"].weight == 0.5
    assert loaded.settings.nodes["n1"].dsn == "host=a"
    assert loaded.settings.nodes["n_3"] == Node(tags=("x", "y"))
    assert list(loaded.settings.nodes) == ["n1", "n2", "n_3"]
    assert list(loaded.settings.groups) == ["night", "reports", "all"]
    assert loaded.origins["nodes.n1.weight"] == "FALCONAS_NODES__N1__WEIGHT"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[node.n1]", ["unknown section [node]", "did you mean [nodes.NAME]?"]),
        ("[group.x]", ["unknown section [group]", "did you mean [groups.NAME]?"]),
        ("[nodes]\ndsn = 'x'", ["nodes.dsn must be a section", "[nodes.NAME]"]),
        ("nodes = 3", ["nodes must be a section"]),
        ("[nodes.N1]", ["[nodes.N1]: its name must be a name of 1 to 64 small"]),
        ("[groups.'a b']", ["its name must be a name", '"a b"']),
        ("[nodes.n1]\nwieght = 1", ["nodes.n1.wieght", "mean nodes.n1.weight?"]),
        ("[nodes.n1]\nsize = 1", ["nodes.n1.size", "did you mean groups.NAME.size?"]),
        ("[groups.x]\ndsn = ''", ["groups.x.dsn", "did you mean database.dsn?"]),
        ("[database]\nweight = 1", ["database.weight", "mean nodes.NAME.weight?"]),
        ("[nodes.n1]\nzzz = 1", ["nodes.n1.zzz", "known are nodes.n1.dsn"]),
        ("[nodes.n1]\nweight = -1", ["nodes.n1.weight must be a number from 0"]),
        ("[nodes.n1]\ntags = 'x'", ["nodes.n1.tags must be an array of names"]),
        ("[groups.x]\nscripts = ['a,b']", ["groups.x.scripts must", '"a,b"']),
        ("[groups.x]\nnodes = ['n1']", ["groups.x.nodes", "no node and no tag n1"]),
    ],
)
def test_wrong_nodes_and_groups_are_named_with_the_remedy(
    file: Path, text: str, words: list[str]
) -> None:
    file.write_text(text + "\n")
    error = fails(file)
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("FALCONAS_NODES__N1__DNS_", "x", ["did you mean FALCONAS_NODES__N1__DNS?"]),
        ("FALCONAS_NODES__n1__DSN", "x", ["did you mean FALCONAS_NODES__N1__DSN?"]),
        ("FALCONAS_NODES__1A__DSN", "x", ["its name must be", '"1a"']),
        ("FALCONAS_NODES__DSN", "x", ["unknown variable FALCONAS_NODES__DSN"]),
        ("FALCONAS_GROUPS", "x", ["FALCONAS_GROUPS: there is no [groups.x]"]),
        ("FALCONAS_GROUPS__X__WRITES", "2", ["must be a number from 0 to 1"]),
    ],
)
def test_a_wrong_variable_of_a_node_is_named(
    name: str, value: str, words: list[str]
) -> None:
    error = fails(environ={name: value})
    for word in words:
        assert word in error


def test_a_single_underscore_in_a_node_s_variable_is_warned_of() -> None:
    environ = {"FALCONAS_NODES_N1_DSN": "x", "FALCONAS_GROUPS_A_TEMP_BUFFERS": "1"}
    first, second = resolve(None, environ, {}).warnings
    assert "did you mean FALCONAS_GROUPS__A__TEMP_BUFFERS?" in first
    assert "did you mean FALCONAS_NODES__N1__DSN?" in second


def test_a_node_s_password_is_a_secret_too(file: Path) -> None:
    file.write_text(
        "[nodes.n1]\ndsn = 'password=hidden'\n[nodes.n2]\ndsn = 'password=hidden'\n"
    )
    file.chmod(0o644)
    (warning,) = resolve(file, {}, {}).warnings
    assert warning.startswith(f"{file} holds a password")
    file.chmod(0o600)
    assert resolve(file, {}, {}).warnings == []
