from __future__ import annotations

import io
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest

from falconas.cli import arguments
from falconas.config import ConfigError
from falconas.errors import InvalidArgument


class Line(msgspec.Struct):
    part: int


def entry(hint: Any) -> dict[str, Any]:
    """Return how the catalogue describes a parameter `p`."""
    return {"name": "p", "type": "?", "schema": msgspec.json.schema(hint)}


def one(word: str, hint: Any) -> Any:
    return arguments.convert(arguments.parse([word]), [entry(hint)])["p"]


def test_words_are_split_at_the_first_sign() -> None:
    found = arguments.parse(["a=1=2", 'b:={"x": "y=z"}', "c=", "d=a:=b"])
    assert [(w.name, w.value, w.exact) for w in found] == [
        ("a", "1=2", False),
        ("b", {"x": "y=z"}, True),
        ("c", "", False),
        ("d", "a:=b", False),
    ]


@pytest.mark.parametrize(
    "word", ["", "a", "=1", ":=1", "1a=2", "a b=1", "--x=1", "a:1"]
)
def test_other_words_are_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="must be KEY=VALUE or KEY:=JSON"):
        arguments.parse([word])


def test_no_parameter_comes_twice() -> None:
    with pytest.raises(ConfigError, match="parameter a is given twice"):
        arguments.parse(["a=1", "a:=1"])


@pytest.mark.parametrize("text", ["{", "", "nope", "[" * 100_000])
def test_wrong_json_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^a: is not JSON: "):
        arguments.parse([f"a:={text}"])


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("5", int, 5),
        ("-5", int, -5),
        ("5", float, 5.0),
        ("5", str, "5"),
        ("5", Any, "5"),
        ("true", bool, True),
        ("No", bool, False),
        ("null", int | None, None),
        ("7", int | None, 7),
        ("null", str | None, "null"),
        ("7", int | str, 7),
        ("x", int | str, "x"),
        ("[1, 2]", list[int], [1, 2]),
        ('{"a": 1}', dict[str, int], {"a": 1}),
        ('[{"part": 1}]', list[Line], [{"part": 1}]),
        ('{"part": 1}', Line, {"part": 1}),
        ("b", Literal["a", "b"], "b"),
        ("2", Literal[1, 2], 2),
        ("1.50", Decimal, "1.50"),
        ("3", Annotated[int, msgspec.Meta(ge=1)], 3),
    ],
)
def test_a_text_becomes_what_the_script_declares(
    text: str, hint: Any, value: Any
) -> None:
    found = one(f"p={text}", hint)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "hint", "wanted"),
    [
        ("x", int, "a whole number"),
        ("1.5", int, "a whole number"),
        ("x", float, "a number"),
        ("maybe", bool, "true or false"),
        ("x", int | None, "a whole number or null"),
        ("1,2", list[int], "a JSON array"),
        ("{}", list[int], "a JSON array"),
        ("[]", dict[str, int], "a JSON object"),
        ("c", Literal["a", "b"], "one of a, b"),
        ("", int, "a whole number"),
        ("9" * 50, int, "a whole number"),
    ],
)
def test_a_text_that_does_not_fit_says_what_would(
    text: str, hint: Any, wanted: str
) -> None:
    with pytest.raises(InvalidArgument, match=wanted) as caught:
        one(f"p={text}", hint)
    assert len(str(caught.value)) < 200


def test_json_is_left_to_the_script_to_judge() -> None:
    assert one('p:="x"', int) == "x"


def test_unknown_parameters_are_left_to_the_script_to_refuse() -> None:
    words = arguments.parse(["q=5"])
    assert arguments.convert(words, [entry(int)]) == {"q": "5"}
    assert arguments.convert(words, [{"name": "q", "type": "any"}]) == {"q": "5"}


def test_parameters_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text('{"a": [1]}')
    assert arguments.read(str(file)) == {"a": [1]}
    for content, words in [
        (b"[1]", "must be a JSON object"),
        (b"{", "is not JSON"),
        (b"\xff", "is not UTF-8 at byte 0"),
    ]:
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=f"^--params .*{words}"):
            arguments.read(str(file))
    with pytest.raises(ConfigError, match="nope: No such file"):
        arguments.read("nope")


def test_parameters_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"a": 1}'))
    assert arguments.read("-") == {"a": 1}
