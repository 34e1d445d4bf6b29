"""Hostile scripts: each gets its verdict, and nobody else notices."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from falconas.errors import MESSAGE_LIMIT, Code, FalconError, NotFound, Started
from tests.acceptance.menagerie import ZOO, Beast, Menagerie, Visit
from tests.acceptance.stack import Stack, wait_for

CANARY = "canary-7f3a"
ROW_VALUE = "Rumpelstilzchen"
SOON = 0.3
AT_LAST = 1.0  # the client's own verdict is due by then


def beasts(module: str, *names: str, code: Code = Code.OK, **more: Any) -> list[Beast]:
    """Return beasts of one kind; what they wrote stays if the verdict is OK."""
    facts = {"committed": int(code is Code.OK), "codes": frozenset({code}), **more}
    return [Beast(f"{module}.{name}", **facts) for name in names]


BEASTS = [
    # Exits are caught; a worker that is gone is replaced.
    *beasts("exits", "sys_exit", "system_exit", code=Code.UNKNOWN, text="SystemExit"),
    *beasts("exits", "keyboard_interrupt", code=Code.UNKNOWN, text="KeyboardInterrupt"),
    *beasts("exits", "generator_exit", code=Code.UNKNOWN, text="GeneratorExit"),
    *beasts("exits", "os_exit", code=Code.UNAVAILABLE, replaced=True, text="code 0"),
    *beasts(
        "exits",
        "segmentation_fault",
        code=Code.UNAVAILABLE,
        replaced=True,
        text="signal 11",
    ),
    # A deadline ends the script, or else its worker.
    *beasts(
        "stuck",
        "endless_loop",
        "except_exception_loop",
        "swallowed_interrupt",
        "disarmed_timer",
        "pg_sleep",
        "pg_sleep_swallowed",
        "lock_twice",
        "queue_get",
        "silent_socket",
        "waiting_for_a_program",
        code=Code.DEADLINE_EXCEEDED,
        budget=SOON,
    ),
    *beasts(
        "stuck",
        "bare_except_loop",
        "sum_range",
        "endless_c_call",
        "deaf_to_the_timer",
        code=Code.DEADLINE_EXCEEDED,
        replaced=True,
        budget=SOON,
    ),
    # Memory.
    *beasts("memory", "leak", replaced=True),
    *beasts(
        "memory",
        "sudden_gigabytes",
        code=Code.UNKNOWN,
        text="MemoryError",
        replaced=True,
    ),
    *beasts(
        "memory",
        "endless_recursion",
        codes=frozenset({Code.UNKNOWN, Code.DEADLINE_EXCEEDED}),
        committed=0,
        replaced=None,
        budget=3.0,
    ),
    # Children and threads.
    *beasts(
        "processes",
        "fork_falls_through",
        "fork_uses_the_connection",
        "fork_closes_the_connection",
        "fork_uses_the_sockets",
        replaced=None,
    ),
    *beasts("processes", "fork_stays", "program_left", "thread_left", replaced=True),
    *beasts(
        "processes",
        "thread_uses_the_database",
        codes=frozenset({Code.OK, Code.UNKNOWN}),
        committed=-1,
        replaced=None,
    ),
    # Output.
    *beasts(
        "output",
        "print_to_stdout",
        "print_to_stderr",
        "write_to_descriptor",
        "program_prints",
    ),
    *beasts("output", "close_stdout", "replace_stdout", replaced=None),
    # What a script may change in its process.
    *beasts(
        "state",
        "chdir",
        "umask",
        "environ",
        "setlocale",
        "decimal_context",
        "signal_handlers",
        "signal_mask",
        "sys_path",
        "socket_timeout",
        "gc_disable",
        "random_seed",
        "logging_level",
        "recursion_limit",
        "excepthook",
        replaced=None,
    ),
    *beasts("state", "files_left", replaced=True),
    # Results that cannot be sent are known before the commit.
    *beasts(
        "results",
        "unknown_type",
        "cycle",
        "too_deep",
        "too_large_integer",
        "lone_surrogate",
        "without_text",
        code=Code.UNKNOWN,
    ),
    *beasts("results", "too_many_bytes", code=Code.UNKNOWN, replaced=None),
    # Errors tell what they must and no more.
    *beasts(
        "errors",
        "secret_in_the_text",
        "secret_in_a_conninfo",
        "values_of_a_row",
        "ten_megabytes",
        "not_utf8",
        "bytes_in_the_text",
        "error_without_text",
        code=Code.UNKNOWN,
    ),
    # The session.
    *beasts(
        "session",
        "set_memory",
        "set_search_path",
        "set_time_zone",
        "set_statement_timeout",
        "set_read_only",
        "set_isolation",
        "set_tenant",
        "set_role",
        "set_authorization",
        "advisory_lock",
        "temporary_table",
        "listen",
        "hold_cursor",
        "sequence_value",
        "sql_prepare",
        "deallocate_all",
    ),
    *beasts("session", "discard_all", code=Code.UNKNOWN),
    # The transaction.
    *beasts("session", "begin_typed", code=Code.UNKNOWN, text="sent BEGIN"),
    *beasts("session", "begin_in_a_read", code=Code.UNKNOWN, text="sent BEGIN"),
    *beasts("session", "transaction_left_open", code=Code.UNKNOWN, text="BEGIN"),
    *beasts(
        "session",
        "commit_then_fail",
        "commit_hidden",
        code=Code.UNKNOWN,
        started=Started.UNKNOWN,
        committed=1,
        text="may be committed",
    ),
    *beasts("session", "error_swallowed", code=Code.ABORTED, text="division by zero"),
    *beasts("session", "close_by_name", code=Code.UNKNOWN, text="AttributeError"),
    *beasts(
        "session",
        "close_connection",
        "terminate_backend",
        code=Code.UNAVAILABLE,
        retry_safe=True,
    ),
    *beasts(
        "session",
        "idle_in_transaction",
        "too_long_in_transaction",
        code=Code.DEADLINE_EXCEEDED,
        text="timeout",
    ),
]


@pytest.fixture(scope="module")
def zoo_database(postgres: Any) -> Iterator[str]:
    yield postgres.create_database("zoo")
    postgres.drop_database("zoo")


@pytest.fixture(scope="module")
def zoo(
    tmp_path_factory: pytest.TempPathFactory,
    zoo_database: str,
    request: pytest.FixtureRequest,
) -> Iterator[Menagerie]:
    """The zoo after a visit to all beasts that the selected tests ask for."""
    wanted = {
        item.callspec.params.get("beast")
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    }
    folder = tmp_path_factory.mktemp("zoo")
    with Menagerie(folder, zoo_database, [b for b in BEASTS if b in wanted]) as zoo:
        zoo.open()
        yield zoo


@pytest.mark.parametrize("beast", BEASTS, ids=lambda beast: beast.script)
def test_a_hostile_script_harms_nobody(zoo: Menagerie, beast: Beast) -> None:
    visit = zoo.visits[beast.script]

    if visit.failure is not None:
        raise AssertionError(f"the next request failed, {visit}") from visit.failure
    code = Code.OK if visit.error is None else visit.error.code
    assert code in beast.codes, f"{visit.error!r}, {visit.value!r}"
    if visit.error is None:
        assert visit.value == "done"
    else:
        _check_error(visit.error, beast)
        assert visit.took < beast.budget + AT_LAST
    if beast.committed >= 0:
        assert visit.committed == beast.committed, "rows that it left"
    pids = {probe["pid"] for probe in (visit.before, *visit.after)}
    if beast.replaced is False:
        assert len(pids) == 1, "the worker should have lived"
    for probe in visit.after:
        assert _changed(visit, probe, "session") == {}
        assert _changed(visit, probe, "process") == {}


def _changed(visit: Visit, probe: dict[str, Any], part: str) -> dict[str, Any]:
    """Return what differs from a fresh worker's; not what an earlier beast left."""
    now, fresh, before = probe[part], visit.fresh[part], visit.before[part]
    assert now.keys() == fresh.keys()
    if probe["pid"] != visit.after[-1]["pid"]:  # about to be replaced, and they with it
        now = now | {"children": []}
    return {
        key: (now[key], was)
        for key, was in fresh.items()
        if now[key] not in (was, before[key])
    }


def _check_error(error: FalconError, beast: Beast) -> None:
    # Where the machine is too busy for its supervisor, the broker's word comes first.
    late = "had not answered by the deadline" in error.message
    assert error.started is (Started.UNKNOWN if late else beast.started)
    assert error.retry_safe is beast.retry_safe
    assert beast.text in error.message
    assert len(error.message) <= MESSAGE_LIMIT + 1
    told = f"{error.message} {error.details}"
    assert "Traceback" not in told
    assert ".py" not in told
    assert CANARY not in told
    assert ROW_VALUE not in told


def test_the_neighbours_saw_no_error(zoo: Menagerie) -> None:
    assert zoo.honest_errors == []
    assert zoo.honest_calls > 0


def test_what_scripts_print_is_logged_in_bounds(zoo: Menagerie) -> None:
    """With the name of the script that printed it; what is too much is left out."""
    logs = "".join(path.read_text() for path in zoo.stack.folder.glob("*-worker.log"))

    printed = set(re.findall(r"printed by cage\d\.(\w+)", logs))
    assert printed >= {b.script for b in zoo.beasts if "print" in b.script}
    # 64 KiB of each, in JSON up to six times as long.
    assert max(map(len, logs.splitlines())) < 7 * 65_536
    assert logs.count("x" * 1000) * 1000 < 4 * 65_536


def test_no_secret_is_logged(zoo: Menagerie) -> None:
    logs = "".join(path.read_text() for path in zoo.stack.folder.glob("*.log"))

    assert CANARY not in logs


def test_a_crash_is_logged_with_its_script_and_trace(zoo: Menagerie) -> None:
    logs = "".join(path.read_text() for path in zoo.stack.folder.glob("*-worker.log"))

    assert "Fatal Python error: Segmentation fault" in logs
    assert "segmentation_fault" in logs


def test_all_beasts_are_on_show() -> None:
    there = {
        f"{path.stem}.{node.name}"
        for path in ZOO.glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }

    keepers = {name for name in there if name.startswith(("probe", "trace", "honest"))}
    assert there - keepers == {beast.name for beast in BEASTS}


BROKEN = {
    "syntax_error": "def run(:\n",
    "import_error": "import no_such_module\ndef run(ctx): pass\n",
    "exit_at_import": "import sys\nsys.exit(1)\n",
    "error_at_import": "1 / 0\n",
    "not_utf8": "# \udcff\n",
    "without_run": "def main(ctx): pass\n",
}
REASONS = {
    "syntax_error": "SyntaxError",
    "import_error": "no_such_module",
    "exit_at_import": "SystemExit",
    "error_at_import": "ZeroDivisionError",
    "not_utf8": "UTF-8",
    "without_run": "no function run",
}
FINE = "def run(ctx): return 'fine'\n"


def _write(folder: Path, scripts: dict[str, str]) -> Path:
    folder.mkdir()
    for name, text in scripts.items():
        (folder / f"{name}.py").write_bytes(text.encode(errors="surrogateescape"))
    return folder


def test_scripts_that_do_not_load_keep_no_other_from_being_served(
    tmp_path: Path, database: str
) -> None:
    scripts = _write(tmp_path / "scripts", {**BROKEN, "fine": FINE})
    with Stack(tmp_path, database, scripts) as stack, stack.client() as client:
        stack.start_broker()
        stack.start_workers(1)
        stack.await_workers(1)
        for name, reason in REASONS.items():
            with pytest.raises(NotFound, match=reason) as caught:
                client.call(name)
            assert caught.value.started is Started.NO
            assert client.call("fine") == "fine"


def test_strict_workers_do_not_start_with_a_script_that_does_not_load(
    tmp_path: Path, database: str
) -> None:
    scripts = _write(
        tmp_path / "scripts", {"bad": BROKEN["syntax_error"], "fine": FINE}
    )
    with Stack(tmp_path, database, scripts) as stack:
        supervisor = stack.start_workers(1, FALCONAS_WORKER__STRICT="true")
        assert wait_for(lambda: supervisor.poll() is not None, "the end")
        assert supervisor.returncode == 3
        assert "bad" in stack.logs()


@pytest.mark.parametrize(
    "source", ["import os\nos._exit(0)\n", "import time\ntime.sleep(3600)\n"]
)
def test_a_first_boot_that_fails_is_not_tried_for_ever(
    tmp_path: Path, database: str, source: str
) -> None:
    scripts = _write(tmp_path / "scripts", {"bad": source})
    with Stack(tmp_path, database, scripts) as stack:
        supervisor = stack.start_workers(1, FALCONAS_WORKER__BOOT_TIMEOUT="2")
        assert wait_for(lambda: supervisor.poll() is not None, "the end")
        assert supervisor.returncode == 3
