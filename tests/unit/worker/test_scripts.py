from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING

import pytest

from falconas.settings import Group
from falconas.worker import scripts
from falconas.worker.scripts import FolderError, Library, ScriptLoadError, load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUN = "def run(ctx, number: int = 1):\n    return number\n"


@pytest.fixture(autouse=True)
def import_state() -> Iterator[None]:
    path, modules = sys.path.copy(), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(folder: Path, name: str, text: str | bytes = RUN) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(0o644)
    return path


def only_error(folder: Path) -> str:
    library = load(folder)
    assert not library.scripts
    (text,) = library.errors.values()
    assert "\n" not in text
    return text


def test_the_path_is_the_name(tmp_path: Path) -> None:
    for name in ("echo.py", "reports/daily.py", "a/b/c/d.py", "notes.txt"):
        write(tmp_path, name)
    library = load(tmp_path)
    assert sorted(library.scripts) == ["a.b.c.d", "echo", "reports.daily"]
    assert library.errors == {}


def test_helpers_are_no_scripts_and_can_be_imported(tmp_path: Path) -> None:
    for name in ("_lib/x.py", ".hidden/x.py", ".x.py", "__pycache__/y.py"):
        write(tmp_path, name)
    write(tmp_path, "_helper_of_test.py", "FACTOR = 2\n")
    write(
        tmp_path,
        "double.py",
        "from _helper_of_test import FACTOR\ndef run(ctx, n: int): return n * FACTOR\n",
    )
    library = load(tmp_path)
    assert list(library.scripts) == ["double"]
    assert library.scripts["double"].run(None, n=4) == 8


def test_options_and_documentation_come_from_the_file(tmp_path: Path) -> None:
    write(
        tmp_path,
        "daily.py",
        '"""Module."""\nfrom __future__ import annotations\n'
        "from typing import TYPE_CHECKING\n"
        "from falconas import script\n"
        "if TYPE_CHECKING:\n    from falconas import Context\n"
        "import msgspec\n"
        "class Line(msgspec.Struct):\n    part: int\n"
        '@script(access="read", budget=2)\n'
        "def run(ctx: Context, lines: list[Line]) -> dict:\n"
        '    """Say the day."""\n',
    )
    entry = load(tmp_path).manifest()["scripts"]["daily"]
    assert entry["access"] == "read"
    assert entry["idempotent"] is True
    assert entry["budget"] == 2.0
    assert entry["description"] == "Say the day."
    assert entry["params"][0]["type"] == "list[Line]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ndef run(ctx:\n", "bad.py:2: SyntaxError: '(' was never closed"),
        ("\nimport no_such_module\n", "bad.py:2: ModuleNotFoundError: No module"),
        ("import sys\n\nsys.exit(3)\n", "bad.py:3: SystemExit: 3"),
        ("def f():\n  1/0\nf()\n", "bad.py:2: ZeroDivisionError: division"),
        ("raise GeneratorExit\n", "bad.py:1: GeneratorExit"),
        ("x = 1\n", "bad.py: there is no function run(ctx, …)"),
        ("run = 3\n", "bad.py: run is not a function"),
        ("\ndef run(): pass\n", "bad.py:2: run must take the context first"),
        (
            "from __future__ import annotations\ndef run(n: int): pass\n",
            "bad.py:2: run must take the context first: def run(ctx, n: int)",
        ),
        ("def run(ctx, **kw): pass\n", "bad.py:1: run takes **kw"),
        ("def run(ctx, f: open): pass\n", "bad.py:1: parameter f: type open cannot"),
        ("async def run(ctx): pass\n", "bad.py:1: run is async"),
        (b"x = 1\n# \xe9\n", "bad.py:2: not UTF-8"),
        ("x = '\0'\n", "bad.py: "),
        (
            "from falconas import script\n@script('')\ndef run(ctx): pass\n",
            "bad.py:2: ",
        ),
        ("class E(Exception):\n  def __str__(self): 1/0\nraise E\n", "bad.py:3: E"),
        ("raise ValueError('a\\nb' + 'x' * 1000)", "bad.py:1: ValueError: a b"),
    ],
)
def test_what_does_not_load_says_where_and_why_in_one_line(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    write(tmp_path, "bad.py", text)
    error = only_error(tmp_path)
    assert error.startswith(message)
    assert len(error) <= 501


def test_one_bad_script_keeps_no_other_from_loading(tmp_path: Path) -> None:
    write(tmp_path, "bad.py", "(")
    write(tmp_path, "good.py")
    library = load(tmp_path)
    assert list(library.scripts) == ["good"]
    entry = library.manifest()["scripts"]["bad"]
    assert entry["error"] == library.errors["bad"]
    assert (entry["access"], entry["idempotent"], entry["params"]) == (
        "write",
        False,
        [],
    )


def test_ctrl_c_ends_the_load(tmp_path: Path) -> None:
    write(tmp_path, "bad.py", "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path)


@pytest.mark.parametrize(
    "name", ["Daily.py", "a-b.py", "1st.py", "a.b.py", "X/y.py", "a/b/c/d/e.py"]
)
def test_a_name_that_no_request_can_say_is_an_error(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    assert "not a script's name" in only_error(tmp_path)


def test_a_dotted_file_does_not_hide_the_script_of_that_name(tmp_path: Path) -> None:
    write(tmp_path, "a.b.py")
    write(tmp_path, "a/b.py")
    library = load(tmp_path)
    assert list(library.scripts) == ["a.b"]
    assert list(library.errors) == ["a.b.py"]


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_not(
    tmp_path: Path,
) -> None:
    outside = write(tmp_path, "outside.py")
    root = tmp_path / "root"
    write(root, "..2024/inside.py")
    (root / "out.py").symlink_to(outside)
    (root / "inside.py").symlink_to("..2024/inside.py")
    (root / "gone.py").symlink_to("nowhere.py")
    library = load(root)
    assert list(library.scripts) == ["inside"]
    assert "leads out of" in library.errors["out"]
    assert "No such file" in library.errors["gone"]


def test_what_anybody_may_write_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "open.py").chmod(0o646)
    assert "chmod o-w" in only_error(tmp_path)


def test_a_folder_called_like_a_script_is_not_one(tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    assert load(tmp_path) == Library()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"nowhere does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(FolderError, match="is not a folder"):
        load(write(tmp_path, "file.py"))


def test_the_hash_names_the_set_of_scripts(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write(tmp_path / folder, "echo.py")
        write(tmp_path / folder, "bad.py", "(")
        write(tmp_path / folder, "_helper.py", "A = 1\n")
    first = load(tmp_path / "one")
    assert len(first.hash) == len(first.scripts["echo"].hash) == 16
    assert load(tmp_path / "two").hash == first.hash
    write(tmp_path / "two", "bad.py", "((")
    assert load(tmp_path / "two").hash == first.hash  # same text of the error
    write(tmp_path / "two", "bad.py", ")")
    assert load(tmp_path / "two").hash != first.hash


@pytest.mark.parametrize("name", ["echo.py", "_helper.py"])
def test_a_changed_file_changes_the_scripts_hash(tmp_path: Path, name: str) -> None:
    write(tmp_path, "echo.py")
    write(tmp_path, "_helper.py", "A = 1\n")
    before = load(tmp_path).scripts["echo"].hash
    write(tmp_path, name, RUN + "# changed\n")
    assert load(tmp_path).scripts["echo"].hash != before


def test_a_single_file_can_be_loaded(tmp_path: Path) -> None:
    path = write(tmp_path, "echo.py")
    assert scripts.load_file(path).name == "echo"
    with pytest.raises(ScriptLoadError, match=r"bad\.py:1: SyntaxError"):
        scripts.load_file(write(tmp_path, "bad.py", ")"))


# Groups

READS = 'from falconas import script\n@script(access="read")\ndef run(ctx): ...\n'


def of_groups(folder: Path, **groups: Group) -> Library:
    write(folder, "reports/daily.py", READS)
    write(folder, "orders.py", "def run(ctx): ...\n")
    write(folder, "broken.py", "def run(ctx\n")
    return load(folder).assign(groups)


def test_each_entry_names_the_first_group_that_has_the_script(tmp_path: Path) -> None:
    library = of_groups(
        tmp_path, reports=Group(scripts=("reports.*",)), rest=Group(scripts=("*",))
    )
    entries = library.manifest()["scripts"]
    assert {name: entry["group"] for name, entry in entries.items()} == {
        "broken": "rest",
        "orders": "rest",
        "reports.daily": "reports",
    }
    assert entries["orders"]["error"] is None


def test_a_script_that_no_group_has_is_not_served(tmp_path: Path) -> None:
    library = of_groups(tmp_path, reports=Group(scripts=("reports.*",)))
    entry = library.manifest()["scripts"]["orders"]
    assert entry["group"] is None
    assert entry["error"] == "no group has a pattern for it; groups: reports"
    assert list(library.scripts) == ["reports.daily"]


def test_a_script_that_writes_is_not_served_by_a_group_that_reads(
    tmp_path: Path,
) -> None:
    library = of_groups(tmp_path, all=Group(access="read"))
    entry = library.manifest()["scripts"]["orders"]
    assert entry["group"] == "all"
    assert entry["error"] == (
        'it writes, and its group all has access = "read"; declare it'
        ' @script(access="read"), or give it to another group'
    )
    assert list(library.scripts) == ["reports.daily"]


def test_other_groups_make_another_set_of_scripts(tmp_path: Path) -> None:
    one = of_groups(tmp_path, one=Group()).hash
    assert of_groups(tmp_path, one=Group(size=3)).hash == one
    assert of_groups(tmp_path, two=Group()).hash != one


def test_a_traceback_shows_what_runs_and_not_what_the_file_has_become(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, "fails.py", "def run(ctx):\n    return 1 / 0  # old\n")
    script = load(tmp_path).scripts["fails"]
    path.write_text("def run(ctx):\n    return 1  # new\n")
    with pytest.raises(ZeroDivisionError) as caught:
        script.run(None)
    shown = "".join(traceback.format_exception(caught.value))
    assert "# old" in shown
    assert "# new" not in shown
