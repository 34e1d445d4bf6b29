"""The files in deploy/: every path, command, option and variable in them exists."""

from __future__ import annotations

import importlib
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from falconas import config
from falconas.broker.hosts import SILENCE
from falconas.cli.failures import Exit

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FILES = [
    path
    for path in DEPLOY.rglob("*")
    if path.is_file() and not path.parent.name.startswith(("__", "."))
]
UNITS = sorted(DEPLOY.glob("*.service"))
HARDENING = {
    "CapabilityBoundingSet": "",
    "DynamicUser": "yes",
    "LimitCORE": "0",
    "LockPersonality": "yes",
    "NoNewPrivileges": "yes",
    "PrivateDevices": "yes",
    "PrivateTmp": "yes",
    "ProtectHome": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectSystem": "strict",
    "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6",
    "RestrictNamespaces": "yes",
    "SystemCallFilter": "@system-service",
    "UMask": "0077",
}
VARIABLE = re.compile(r"\$\{\w+:\?[^}]*\}")
SECRET = re.compile(r"(?i)(password|passwd|secret)\s*[=:]\s*\S")


def read_unit(path: Path) -> dict[str, dict[str, list[str]]]:
    """Return the values of each key by section."""
    sections: dict[str, dict[str, list[str]]] = {}
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, sign, value = line.partition("=")
            assert sign, line
            section.setdefault(key, []).append(value)
    return sections


def compose() -> dict[str, Any]:
    yaml = importlib.import_module("yaml")
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return document


def check_command(words: list[str]) -> None:
    """Assert that `falconas WORDS` is a command with these options."""
    cli: Any = importlib.import_module("falconas.cli").cli
    command, *arguments = words
    assert command in cli.commands
    known = {
        name
        for parameter in cli.commands[command].params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    used = {word.partition("=")[0] for word in arguments if word.startswith("-")}
    assert used <= known


def test_there_is_a_unit_for_each_server() -> None:
    assert [unit.name for unit in UNITS] == [
        "falconas-broker.service",
        "falconas-worker.service",
    ]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_accepts_the_unit(unit: Path, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    # The program is not where the unit expects it; any will do for the check.
    text = unit.read_text().replace("/opt/falconas/bin/falconas", sys.executable)
    copy = tmp_path / unit.name
    copy.write_text(text)

    done = subprocess.run(
        [program, "verify", "--man=no", str(copy)],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )

    complaints = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (done.returncode, complaints) == (0, [])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_unit_runs_a_command_that_exists(unit: Path) -> None:
    (start,) = read_unit(unit)["Service"]["ExecStart"]
    program, *words = start.split()

    assert Path(program).name == "falconas"
    assert f"{Path(program).parent}/pip" in (DEPLOY / "README.md").read_text()
    check_command(words)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_unit_restarts_drains_and_is_confined(unit: Path) -> None:
    service = read_unit(unit)["Service"]
    defaults = config.Settings()

    assert service["Restart"] == ["on-failure"]
    assert service["RestartPreventExitStatus"] == [
        f"{Exit.USAGE:d} {Exit.NOT_STARTED:d}"
    ]
    assert service["KillMode"] == ["mixed"]
    stop = float(service["TimeoutStopSec"][0].removesuffix("s"))
    assert stop > max(defaults.broker.drain_timeout, defaults.worker.drain_timeout)
    assert {key: service.get(key) for key in HARDENING} == {
        key: [value] for key, value in HARDENING.items()
    }


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_unit_is_told_how_the_service_is(unit: Path) -> None:
    """What `falconas.systemd` says is listened to, from the server alone."""
    service = read_unit(unit)["Service"]

    assert service["Type"] == ["notify"]
    assert service["NotifyAccess"] == ["main"]
    # The broker beats at half of it, and its heartbeats may fail three times.
    assert float(service["WatchdogSec"][0].removesuffix("s")) > 2 * SILENCE


def test_workers_have_the_time_to_start() -> None:
    service = read_unit(DEPLOY / "falconas-worker.service")["Service"]

    start = float(service["TimeoutStartSec"][0].removesuffix("s"))
    assert start > config.Settings().worker.boot_timeout


def test_workers_are_reloaded_by_the_signal_that_reloads() -> None:
    service = read_unit(DEPLOY / "falconas-worker.service")["Service"]

    assert service["ExecReload"] == [f"/bin/kill -{signal.SIGHUP.name[3:]} $MAINPID"]
    assert "ExecReload" not in read_unit(DEPLOY / "falconas-broker.service")["Service"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_unit_reads_the_configuration_as_a_credential(unit: Path) -> None:
    service = read_unit(unit)["Service"]

    name, _, path = service["LoadCredential"][0].partition(":")
    assert service["Environment"] == [f"FALCONAS_CONFIG=%d/{name}"]
    assert f" {path}" in (DEPLOY / "README.md").read_text()


def test_one_worker_out_of_memory_does_not_stop_the_others() -> None:
    service = read_unit(DEPLOY / "falconas-worker.service")["Service"]

    assert service["OOMPolicy"] == ["continue"]


def test_configuration_is_valid() -> None:
    settings = config.load(DEPLOY / "falconas.toml", {}, {})

    config.check_broker(settings.broker)
    assert settings.worker.scripts in (DEPLOY / "README.md").read_text()


def test_containerfile_copies_what_exists_and_runs_as_a_user() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    last = text[text.rindex("\nFROM ") :]

    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
    assert re.search(r"^USER [1-9]\d+$", last, re.MULTILINE)
    assert 'ENTRYPOINT ["falconas"]' in last
    assert re.search(r"python:3\.\d+-slim", last)
    for command in re.findall(r"three commands: (\w+), (\w+), (\w+)", text)[0]:
        check_command([command])


def test_compose_builds_from_files_that_exist() -> None:
    build = compose()["services"]["broker"]["build"]

    context = (DEPLOY / build["context"]).resolve()
    assert context == ROOT
    assert (context / build["dockerfile"]).exists()


@pytest.mark.parametrize("name", ["broker", "worker"])
def test_compose_service_is_valid_and_confined(name: str) -> None:
    service = compose()["services"][name]

    check_command(service["command"])
    environ = service["environment"]
    loaded = config.resolve(None, environ, {})
    assert loaded.warnings == []
    if name == "broker":
        config.check_broker(loaded.settings.broker)
        check_command(service["healthcheck"]["test"][2:])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    for volume in service.get("volumes", []):
        source = volume.partition(":")[0]
        assert (DEPLOY / source).is_dir(), source
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:")


def test_compose_workers_dial_what_the_broker_binds() -> None:
    services = compose()["services"]
    broker = services["broker"]["environment"]
    worker = services["worker"]["environment"]

    for leg in ("BACKEND", "CONTROL"):
        dialled = worker[f"FALCONAS_WORKER__{leg}"].replace("broker", "0.0.0.0")
        assert dialled == broker[f"FALCONAS_BROKER__{leg}"]
    assert worker["PGHOST"] in services
    shared = set(services["worker"]["networks"]) & set(services["database"]["networks"])
    assert shared
    assert set(services["worker"]["networks"]) <= set(compose()["networks"])


def test_variables_are_options() -> None:
    known = {option.variable for option in config.OPTIONS.values()}

    for path in FILES:
        named = set(re.findall(r"FALCONAS_[A-Z]+__[A-Z_]+", path.read_text()))
        assert named - {"FALCONAS_SECTION__KEY"} <= known, path.name


def test_nothing_holds_a_secret() -> None:
    for path in FILES:
        for line in path.read_text().splitlines():
            text = VARIABLE.sub("", line).replace("=…", "")
            assert not SECRET.search(text), f"{path.name}: {line}"
