"""Documents are tested: what the code knows, they tell; where they point, it is."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from falconas import codec, errors, protocol
from falconas.config import resolve
from falconas.errors import Code, Started
from falconas.protocol import COMMANDS, Command, Kind
from falconas.settings import MEMBERS, OPTIONS

ROOT = Path(__file__).parents[2]
SPEC = (ROOT / "docs" / "protocol.md").read_text()
OPERATIONS = ROOT / "docs" / "operations.md"
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
TOML = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Paths of the machines that we happen to work on.
MACHINE = re.compile(r"(?<![\w.])/(?:work|root|home)/\w+")
TEXT = {".md", ".py", ".toml", ".yaml", ".yml", ".json", ".service", ".sh", ".js", ""}


def committed() -> list[Path]:
    """Return the files that are, or would be, committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    return [path for path in paths if path.is_file() and path.suffix in TEXT]


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def documents() -> list[Path]:
    return [path for path in committed() if path.suffix == ".md"]


def rows(text: str) -> list[list[str]]:
    """Return the cells of all rows of all tables."""
    return [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def section(title: str) -> str:
    """Return the text under a heading, to the next one of its level or above."""
    match = re.search(rf"^(#+) {re.escape(title)}$", SPEC, re.MULTILINE)
    assert match, f"docs/protocol.md has no heading {title!r}"
    level = len(match[1])
    rest = SPEC[match.end() :]
    end = re.search(rf"^#{{1,{level}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
        for title in titles
    }


@pytest.mark.parametrize("command", list(Command), ids=lambda command: command.name)
def test_command_has_its_row(command: Command) -> None:
    row = [str(int(command)), command.name]

    (found,) = [cells for cells in rows(section("5. Commands")) if cells[:2] == row]

    fields = {
        cls: [name for name in cls._fields if name not in {"id", "extras"}]
        for cls, item in COMMANDS.items()
        if item is command
    }
    for names in fields.values():
        assert found[2] == (", ".join(names) or "\N{EN DASH}")
    if not fields:
        assert found[2] == "reserved"


@pytest.mark.parametrize("command", list(Command), ids=lambda command: command.name)
def test_command_stands_under_the_sockets_that_accept_it(command: Command) -> None:
    (found,) = [
        cells for cells in rows(section("5. Commands")) if cells[1] == command.name
    ]
    for cell, accept in zip(
        found[4:7],
        (protocol.FRONTEND, protocol.BACKEND, protocol.CONTROL),
        strict=True,
    ):
        accepted = command in {COMMANDS[cls] for cls in accept}
        if found[2] != "reserved":
            assert accepted == ("→B" in cell)


@pytest.mark.parametrize("cls", list(COMMANDS), ids=lambda cls: str(cls.__name__))
def test_command_has_its_section_with_its_shape(cls: type) -> None:
    command = COMMANDS[cls]
    title = "PING, PONG" if command.name in {"PING", "PONG"} else command.name
    fields = ", ".join(cls._fields)  # type: ignore[attr-defined]

    assert f"[1, {int(command)}, {fields}]" in section(title)


@pytest.mark.parametrize("code", list(Code), ids=lambda code: code.name)
def test_code_has_its_row(code: Code) -> None:
    assert [str(int(code)), code.name] in [
        cells[:2] for cells in rows(section("9. Errors"))
    ]


def test_words_of_errors_are_explained() -> None:
    text = section("9. Errors")

    assert all(f"`{word}`" in text for word in Started)
    body = errors.FalconError(
        retry_after=1.0, sqlstate="40001", details={"a": 1}
    ).body()
    assert [cells[0] for cells in rows(text)][2 : 2 + len(body)] == [
        f"`{name}`" for name in body
    ]


def test_kinds_are_listed() -> None:
    listed = ", ".join(f"{int(kind)} {kind.name}" for kind in Kind)

    assert listed in section("Field types")


def test_fields_are_listed() -> None:
    names = {name for cls in COMMANDS for name in cls._fields} - {"extras"}

    assert {
        name for name in names if f"`{name}`" not in section("Field types")
    } == set()


def test_ext_types_are_listed() -> None:
    listed = {cells[0]: cells[2] for cells in rows(section("8. Values"))}
    known = {
        name.removeprefix("EXT_").lower(): str(value)
        for name, value in vars(codec).items()
        if name.startswith("EXT_")
    }

    assert known == {name: listed.get(name) for name in known}
    assert listed["timestamp"] == "-1"


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (protocol.HEADER_LIMIT, "header from a client"),
        (protocol.HEADER_LIMIT + protocol.HOP_ROOM, "header on other legs"),
        (protocol.ID_LIMIT, "id"),
        (protocol.NAME_LIMIT, "names in headers"),
        (protocol.EXTRAS_DEPTH, "depth of extras"),
        (int(protocol.BUDGET_LIMIT), "budget"),
        (codec.DEPTH_LIMIT, "depth of parameters"),
        (codec.LENGTH_LIMIT, "elements of one array or map of parameters"),
        (errors.MESSAGE_LIMIT, "message of an error"),
        (OPTIONS["broker.client_requests"].default, "outstanding requests of a client"),
    ],
)
def test_limits_are_listed(limit: int, text: str) -> None:
    listed = {cells[0]: cells[1] for cells in rows(section("13. Limits"))}

    assert re.match(rf"{limit:,}\b", listed[text])


def test_sizes_are_listed() -> None:
    listed = {cells[0]: cells[1] for cells in rows(section("13. Limits"))}

    for name, text in (("params_bytes", "parameters"), ("result_bytes", "result")):
        size = OPTIONS[f"broker.{name}"].default >> 20
        assert listed[text] == f"{size} MiB (`{name}`)"
    requests = OPTIONS["broker.queue_requests"].default
    size = OPTIONS["broker.queue_bytes"].default >> 20
    assert listed["waiting requests, in all"] == f"{requests:,} and {size} MiB"


def test_example_by_bytes_is_true() -> None:
    cells = [row[0].strip("`") for row in rows(section("3. Header"))[2:]]
    words = " ".join(cells[cells.index("96") :]).replace(
        "…", " ".join(f"{i:02x}" for i in range(1, 15))
    )
    header = bytes.fromhex(words)

    assert protocol.decode(header, protocol.FRONTEND) == protocol.Request(
        bytes(range(16)), "echo", 30.0, {"accept": ["ext"]}
    )


@pytest.mark.parametrize("option", sorted(OPTIONS | MEMBERS))
def test_option_has_its_row(option: str) -> None:
    listed = [cells[0] for cells in rows(OPERATIONS.read_text())]

    assert f"`{option}`" in listed


@pytest.mark.parametrize("text", TOML.findall((ROOT / "docs" / "nodes.md").read_text()))
def test_examples_of_the_configuration_are_valid(text: str, tmp_path: Path) -> None:
    path = tmp_path / "falconas.toml"
    path.write_text(text)

    assert resolve(path, {}, {}).warnings == []


def test_adrs_are_numbered_and_complete() -> None:
    paths = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))

    numbers = [int(path.name[:4]) for path in paths]
    assert numbers == list(range(len(paths)))  # 0000 is the template
    for path in paths:
        text = path.read_text()
        parts = re.findall(r"^## (\w+)$", text, re.MULTILINE)
        assert parts == ["Context", "Decision", "Consequences"], path.name
        assert re.search(r"^\| Status \| \w", text, re.MULTILINE), path.name


@pytest.mark.parametrize("path", documents(), ids=label)
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(FENCE.sub("", path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        goal = (path.parent / name).resolve() if name else path
        assert goal.exists(), f"{path.name}: {target}"
        assert not anchor or anchor in anchors(goal), f"{path.name}: {target}"


def test_nothing_names_our_machines() -> None:
    guilty = [
        f"{label(path)}: {match[0]}"
        for path in committed()
        for match in MACHINE.finditer(path.read_text(errors="replace"))
    ]

    assert guilty == []


def test_python_is_committed_as_utf_8_with_lf() -> None:
    for path in committed():
        raw = path.read_bytes()
        raw.decode()
        assert b"\r" not in raw, path
        assert not raw or raw.endswith(b"\n"), path
