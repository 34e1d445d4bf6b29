from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from falconas import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def root() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def log() -> logging.Logger:
    return logging.getLogger("falconas.test")


def one(stream: io.StringIO) -> dict[str, object]:
    (line,) = stream.getvalue().splitlines()
    fields: dict[str, object] = json.loads(line)
    return fields


def test_a_pipe_gets_json(log: logging.Logger) -> None:
    stream = io.StringIO()
    logs.setup("info", "auto", stream)
    log.info("served %s", "echo", extra={"script": "echo", "run_us": 12})
    fields = one(stream)
    assert str(fields.pop("ts")).endswith("Z")
    assert fields == {
        "level": "info",
        "event": "served echo",
        "logger": "falconas.test",
        "script": "echo",
        "run_us": 12,
    }
    assert list(one(stream))[:4] == ["ts", "level", "event", "logger"]


def test_a_process_says_in_each_line_who_it_is(log: logging.Logger) -> None:
    stream = io.StringIO()
    logs.setup("info", "json", stream, node="n1", index=3)
    log.warning("lost", extra={"node": "a script's own"})
    assert {**one(stream), "ts": 0} == {
        "ts": 0,
        "level": "warning",
        "event": "lost",
        "logger": "falconas.test",
        "node": "a script's own",
        "index": 3,
    }


def test_a_terminal_gets_text(log: logging.Logger) -> None:
    stream = Terminal()
    logs.setup("info", "auto", stream)
    log.warning("lost", extra={"worker": "a/1", "reason": "killed by 9", "note": ""})
    line = stream.getvalue()
    assert line.endswith(
        ' warning test: lost worker=a/1 reason="killed by 9" note=""\n'
    )


def test_the_format_can_be_told(log: logging.Logger) -> None:
    terminal, pipe = Terminal(), io.StringIO()
    logs.setup("info", "json", terminal)
    log.info("a")
    assert one(terminal)["event"] == "a"
    logs.setup("info", "text", pipe)
    log.info("b")
    assert pipe.getvalue().endswith("test: b\n")


def test_a_second_setup_replaces_the_first(
    root: logging.Logger, log: logging.Logger
) -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.setup("debug", "json", first)
    logs.setup("error", "json", second)
    log.warning("not at this level")
    log.error("seen")
    assert first.getvalue() == ""
    assert one(second)["event"] == "seen"
    assert len(root.handlers) == 1


def test_stderr_is_the_default(
    log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.setup()
    log.info("there")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["event"] == "there"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://me:s3cret@h/db", "postgresql://me:***@h/db"),
        ("postgresql://:s3cret@h", "postgresql://:***@h"),
        ("postgresql://me:s3@cr:et@h/db", "postgresql://me:***@h/db"),
        ("postgresql://h/db?password=s3cret", "postgresql://h/db?password=***"),
        ("host=h password=s3cret user=u", "host=h password=*** user=u"),
        ("host=h PASSWORD = s3cret user=u", "host=h PASSWORD = *** user=u"),
        (r"password='s3 c\'ret' user=u", "password=*** user=u"),
        ("password='s3 cret", "password=***"),
        (r"password=s3\ cret user=u", "password=*** user=u"),
        ("sslpassword=s3cret", "sslpassword=***"),
        ("PGPASSWORD=s3cret x", "PGPASSWORD=*** x"),
        ("{'password': 's3cret'}", "{'password': '***"),
    ],
)
def test_passwords_are_masked(text: str, masked: str) -> None:
    assert logs.mask(text) == masked
    assert logs.has_password(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tcp://127.0.0.1:5570",
        "postgresql://me@h:5432/db",
        "host=h dbname=d",
        "password authentication failed for user x",
        "passfile=/x",
        "service=prod",
    ],
)
def test_other_texts_stay(text: str) -> None:
    assert logs.mask(text) == text
    assert not logs.has_password(text)


@pytest.mark.parametrize("format_", ["json", "text"])
def test_no_line_holds_a_password(format_: str, log: logging.Logger) -> None:
    stream = io.StringIO()
    logs.setup("info", format_, stream)
    dsn = "host=h password='hidd en' dbname=d"
    try:
        raise ValueError(dsn)  # noqa: TRY301
    except ValueError:
        log.exception("bad %s", dsn, extra={"dsn": dsn, "options": {"a": dsn}})
    log.info("x", extra={"db_password": "hidd en"})
    log.info("x", stack_info=True)
    assert "ValueError" in stream.getvalue()
    assert "hidd" not in stream.getvalue()


def test_extras_do_not_replace_the_keys_of_a_line(log: logging.Logger) -> None:
    stream = io.StringIO()
    logs.setup("info", "json", stream)
    log.info("right", extra={"event": "other", "id": b"\x01\xff", "none": None})
    fields = one(stream)
    assert fields["event"] == "right"
    assert fields["event_"] == "other"
    assert fields["id"] == "01ff"
    assert fields["none"] is None


def test_an_exception_is_a_key_in_json_and_follows_in_text(log: logging.Logger) -> None:
    stream = io.StringIO()
    for format_ in ("json", "text"):
        logs.setup("info", format_, stream)
        try:
            raise KeyError("k")  # noqa: TRY301
        except KeyError:
            log.exception("failed")
    first, second, *rest = stream.getvalue().splitlines()
    assert json.loads(first)["exception"].startswith("Traceback")
    assert second.endswith("error   test: failed")
    assert rest[0] == "    Traceback (most recent call last):"
    assert rest[-1] == "    KeyError: 'k'"


def test_a_trace_is_bounded(log: logging.Logger) -> None:
    stream = io.StringIO()
    logs.setup("info", "json", stream)
    error = ValueError("x" * 10**6 + " the end")
    log.error("failed", exc_info=error)
    trace = json.loads(stream.getvalue())["exception"]
    assert len(trace) < 2 * logs.TRACE_LIMIT
    assert trace.startswith("ValueError")
    assert trace.endswith(" the end")


@pytest.mark.parametrize("format_", ["json", "text"])
def test_a_message_and_each_extra_are_bounded(
    format_: str, log: logging.Logger
) -> None:
    stream = io.StringIO()
    logs.setup("info", format_, stream)
    long = "y" * (logs.TEXT_LIMIT + 7)
    log.info("%s", long, extra={"one": long, "two": [long], "raw": long.encode()})
    text = stream.getvalue()
    assert text.count(" (7 more characters)") == 2
    assert text.count("more characters)") == 4
    assert len(text) < 4 * logs.TEXT_LIMIT + 1000


def test_a_message_at_the_limit_is_whole(log: logging.Logger) -> None:
    stream = io.StringIO()
    logs.setup("info", "json", stream)
    log.info("y" * logs.TEXT_LIMIT)
    assert one(stream)["event"] == "y" * logs.TEXT_LIMIT


@pytest.mark.parametrize("after", [0, 10_000])
@pytest.mark.parametrize("before", [-10, -20, -1000])
def test_a_password_at_the_cut_is_masked(
    before: int, after: int, log: logging.Logger
) -> None:
    stream = io.StringIO()
    logs.setup("info", "json", stream)
    start = "x " * ((logs.TEXT_LIMIT + before) // 2)
    log.info("%s", f"{start}://me:{'hidden' * 170}@h {'z' * after}")
    assert "hidden" not in stream.getvalue()


@pytest.mark.parametrize("place", [7_000, 8_100, 20_500, 21_500])
def test_a_password_at_the_cut_of_a_trace_is_masked(
    place: int, log: logging.Logger
) -> None:
    stream = io.StringIO()
    logs.setup("info", "json", stream)
    text = f"{'x ' * (place // 2)}://me:{'hidden' * 170}@h "
    log.error("failed", exc_info=ValueError(text + "z" * (30_000 - len(text))))
    assert "hidden" not in stream.getvalue()


def test_a_text_cannot_steer_the_terminal(log: logging.Logger) -> None:
    stream = io.StringIO()
    logs.setup("info", "text", stream)
    log.info("a\x1b[2Jb\nforged line", extra={"k": "\r\x07"})
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(r"a\x1b[2Jb\nforged line k=\r\x07")


class Full(io.StringIO):
    """Takes nothing until there is room."""

    room = False

    def write(self, text: str, /) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_a_line_that_cannot_be_written_is_counted_and_no_error(
    log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = Full()
    logs.setup("info", "json", stream)
    log.info("one")
    log.info("two")
    log.info("three", extra={"odd": object()})
    stream.room = True
    log.info("four")
    log.info("five")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == [
        "lines of the log that could not be written: 3",
        "four",
        "five",
    ]
    assert lines[0]["level"] == "warning"
    assert capsys.readouterr().err == ""


def test_a_record_that_cannot_be_formatted_is_no_error(log: logging.Logger) -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError

    stream = io.StringIO()
    logs.setup("info", "json", stream)
    log.info("%s", Odd())
    log.info("%d", "x")
    log.info("right")
    events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert events[-1] == "right"
    assert set(events[:-1]) == {"lines of the log that could not be written: 1"}
