"""The installed command, as a user meets it: what it prints and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("falconas")
PATIENCE = 60.0

ECHO = '''
from falconas import script

@script(access="read")
def run(ctx, value: int, day: str = "mon"):
    """Give back the value."""
    return {"value": value, "day": day, "one": ctx.db.execute("select 1").fetchone()[0]}
'''

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    scripts = tmp_path / "workers"
    scripts.mkdir()
    (scripts / "echo.py").write_text(ECHO)
    (scripts / "bad.py").write_text("def run(:\n")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FALCONAS", "PG"))}
    ends = ("frontend", "backend", "control")
    return kept | {f"FALCONAS_BROKER__{e.upper()}": f"ipc://{e}" for e in ends}


@pytest.fixture
def run(tmp_path: Path, environ: dict[str, str]) -> Run:
    def invoke(*arguments: str, given: str = "", **more: str) -> Done:
        done = subprocess.run(
            [COMMAND, *arguments],
            cwd=tmp_path,
            env=environ | more,
            input=given,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done

    return invoke


@pytest.fixture
def start(
    tmp_path: Path, environ: dict[str, str]
) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def invoke(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [COMMAND, *arguments],
            cwd=tmp_path,
            env=environ,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield invoke
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=PATIENCE)


def until(process: subprocess.Popen[str], words: str) -> None:
    """Read the process's log up to the line with these words."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if words in line:
            return
    pytest.fail(f"ended without {words!r}: {''.join(seen)}")


def one_line(done: Done, code: int) -> str:
    assert done.returncode == code, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def test_help_and_version(run: Run) -> None:
    assert "Commands:" in run("--help").stdout
    assert run("--version").stdout.startswith("falconas ")
    module = [sys.executable, "-m", "falconas.cli", "--version"]
    assert b"libzmq" in subprocess.run(module, check=True, capture_output=True).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["brokr"], 2, "no such command 'brokr'"),
        (["broker", "--fronted", "x"], 2, "--frontend"),
        (["broker", "--config", "no.toml"], 2, "no.toml: there is no such file"),
        (["broker", "--frontend", "tcp://127.0.0.1"], 2, "tcp://HOST:PORT"),
        (["broker", "--frontend", "tcp://0.0.0.0:5570"], 2, "--insecure"),
        (["broker", "--frontend", "ipc:///proc/x"], 3, "cannot listen on ipc:///proc"),
        (["worker", "--scripts", "none"], 2, "none does not exist"),
        (["worker", "--dsn", "nonsense"], 2, "the DSN is malformed"),
        (["worker", "--dsn", "postgresql://u:hidden@h"], 2, "PGPASSFILE"),
        (["dev", "--scripts", "none"], 2, "none does not exist"),
        (["call", "echo", "value"], 2, "must be KEY=VALUE"),
        (["call", "echo", "--params", "none"], 2, "No such file"),
        (["call", "echo", "--budget", "100ms"], 1, "UNAVAILABLE: "),
        (["config", "check", "--config", "workers"], 2, "Is a directory"),
    ],
)
def test_bad_input_is_one_line_and_the_right_code(
    run: Run, arguments: list[str], code: int, words: str
) -> None:
    line = one_line(run(*arguments), code)
    assert words in line
    assert "hidden" not in line


def test_bad_configuration_is_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "falconas.toml").write_text("[broker]\nfronted = 1\n")
    for command in ("broker", "worker", "dev", "status", "scripts"):
        line = one_line(run(command), 2)
        assert "falconas.toml: unknown option broker.fronted" in line
    (tmp_path / "falconas.toml").unlink()
    line = one_line(run("broker", FALCONAS_BROKER__BUGDET="1"), 2)
    assert "did you mean FALCONAS_BROKER__BUDGET?" in line


def test_a_port_in_use_is_code_3(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        line = one_line(run("broker", "--frontend", endpoint), 3)
    assert f"cannot start: {endpoint} is in use" in line


def test_a_reader_that_has_enough_is_no_error(environ: dict[str, str]) -> None:
    done = subprocess.run(
        f"{COMMAND} config example | head -n 1; echo ${{PIPESTATUS[0]}}",
        executable="/bin/bash",
        shell=True,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("# Configuration")
    assert done.stderr == ""


def test_ctrl_c_while_waiting_is_130(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    broker = start("broker")
    until(broker, "ready")
    caller = start("call", "none", "--log-level", "debug", "--budget", "50s")
    broker.send_signal(signal.SIGSTOP)
    try:
        # It has imported all and waits: nothing else reads the endpoint.
        while not waiting(caller.pid):
            assert caller.poll() is None
        caller.send_signal(signal.SIGINT)
        assert caller.wait(PATIENCE) == 130
    finally:
        broker.send_signal(signal.SIGCONT)
    broker.send_signal(signal.SIGTERM)
    assert broker.wait(PATIENCE) == 0


def waiting(pid: int) -> bool:
    """Tell whether a process has started the client's thread."""
    names = [p.read_text().strip() for p in Path(f"/proc/{pid}/task").glob("*/comm")]
    return any(name.startswith("ZMQbg") for name in names)


def test_dev_serves_all_in_one_and_stops_at_ctrl_c(
    start: Callable[..., subprocess.Popen[str]],
    run: Run,
    database: str,
    environ: dict[str, str],
) -> None:
    environ["FALCONAS_DATABASE__DSN"] = database
    dev = start("dev", "-n", "1")
    until(dev, "Ctrl-C stops it")

    found = run("call", "echo", "value=5", "day=5", "--json")
    assert json.loads(found.stdout) == {"value": 5, "day": "5", "one": 1}
    human = run("call", "echo", "--params", "-", "-v", given='{"value": 6}')
    assert human.stdout == "value: 6\nday:   mon\none:   1\n"
    assert human.stderr.startswith("served by ")
    line = one_line(run("call", "echo", "value=x"), 1)
    assert line.startswith("INVALID_ARGUMENT: parameter value must be a whole number")
    line = one_line(run("call", "none"), 1)
    assert line.startswith("NOT_FOUND: ")
    assert "(not started" in line

    catalogue = run("scripts").stdout
    assert "Give back the value." in catalogue
    assert "bad: bad.py:1: SyntaxError" in catalogue
    assert json.loads(run("scripts", "echo", "--json").stdout)["access"] == "read"
    assert "1, 0 busy" in run("status").stdout
    assert len(json.loads(run("status", "--json").stdout)["workers"]) == 1

    os.kill(dev.pid, signal.SIGINT)
    _, log = dev.communicate(timeout=PATIENCE)
    assert dev.returncode == 130, log
    assert "Traceback" not in log
    line = one_line(run("scripts", FALCONAS_CLIENT__BUDGET="100ms"), 1)
    assert line.startswith("UNAVAILABLE: no broker")


def test_dev_ends_when_its_broker_cannot_start(
    start: Callable[..., subprocess.Popen[str]],
    run: Run,
    environ: dict[str, str],
    database: str,
) -> None:
    broker = start("broker")
    until(broker, "ready")
    environ["FALCONAS_DATABASE__DSN"] = database
    done = run("dev", "-n", "1")
    assert done.returncode == 3, done.stderr
    assert "cannot start: ipc://frontend is in use" in done.stderr
    broker.send_signal(signal.SIGTERM)
    assert broker.wait(PATIENCE) == 0
