from __future__ import annotations

import logging
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from falconas import config
from falconas.config import Broker, ConfigError, Settings, load, resolve


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


def test_a_broker_in_the_open_needs_consent() -> None:
    config.check_broker(Broker())
    for key in ("frontend", "backend", "control"):
        opened: dict[str, Any] = {key: "tcp://0.0.0.0:99"}
        broker = replace(Broker(), **opened)
        with pytest.raises(ConfigError, match=rf"broker\.{key} = tcp://0.*--insecure"):
            config.check_broker(broker)
        config.check_broker(replace(broker, insecure=True))


def test_a_broker_needs_three_endpoints() -> None:
    with pytest.raises(ConfigError, match="must differ"):
        config.check_broker(replace(Broker(), backend=Broker.frontend))


def test_the_largest_parameters_fit_into_the_queue() -> None:
    config.check_broker(replace(Broker(), params_bytes=100, queue_bytes=100))
    with pytest.raises(ConfigError, match="must not be larger"):
        config.check_broker(replace(Broker(), params_bytes=101, queue_bytes=100))


def test_show_is_a_configuration_with_origins_and_without_secrets(file: Path) -> None:
    file.write_text("[broker]\nbudget = 0.25\n")
    environ = {"FALCONAS_DATABASE__DSN": "password=hidden"}
    loaded = resolve(file, environ, {})
    text = config.show(loaded.settings, loaded.origins)
    assert "hidden" not in text
    assert re.search(
        rf'^budget = "250ms" +# {re.escape(str(file))}$', text, re.MULTILINE
    )
    assert re.search(r"^dsn = .* # FALCONAS_DATABASE__DSN$", text, re.MULTILINE)
    file.write_text(text)
    again = resolve(file, environ, {}).settings
    assert again == loaded.settings


def test_the_example_has_each_option_at_its_default(file: Path) -> None:
    text = config.example()
    assert all(len(line) <= 80 for line in text.splitlines())
    file.write_text(text)
    assert load(file, {}, {}) == Settings()
    active = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    keys = {f"{s}.{k}" for s, table in tomllib.loads(active).items() for k in table}
    assert keys == set(config.OPTIONS)
    file.write_text(active)
    loaded = resolve(file, {}, {})
    assert loaded.settings == Settings()
    assert set(loaded.origins.values()) == {str(file)}


def test_the_environment_carries_all_settings(file: Path) -> None:
    file.write_text(
        "[broker]\nbudget = 0.0125\ninsecure = true\nqueue_bytes = 70001\n"
        "[worker]\ncount = 3\n[database]\ndsn = 'password=\"a b\"'\n"
    )
    settings = load(file, {}, {})
    assert load(None, config.environ_of(settings), {}) == settings
    assert load(None, config.environ_of(Settings()), {}) == Settings()
