from __future__ import annotations

from typing import Any

import pytest

from falconas.worker.reload import Reloads, changes, refusal, unloaded

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16


def news(reloads: Reloads) -> list[tuple[bytes, str, str]]:
    return [(n["id"], n["state"], n["reason"]) for n in reloads.take_news()]


def manifest(**scripts: str) -> dict[str, Any]:
    """Return one in which a hash that begins with `!` is an error."""
    return {
        "scripts": {
            name: {"hash": text, "error": text if text.startswith("!") else None}
            for name, text in scripts.items()
        }
    }


def test_a_reload_is_told_from_its_beginning_to_its_end() -> None:
    reloads = Reloads()
    reloads.ask(A)
    assert reloads.wanted
    assert reloads.active
    reloads.begin()
    assert not reloads.wanted
    assert not reloads.rolling
    reloads.roll()
    assert reloads.rolling
    reloads.end()
    assert not reloads.active
    assert not reloads.rolling
    assert news(reloads) == [(A, "loading", ""), (A, "rolling", ""), (A, "done", "")]
    assert news(reloads) == []


def test_who_asks_meanwhile_shares_the_next() -> None:
    reloads = Reloads()
    reloads.ask(A)
    reloads.begin()
    for id_ in (B, C, B, A):
        reloads.ask(id_)
    assert not reloads.wanted
    reloads.end("broken")
    assert reloads.wanted
    reloads.take_news()
    reloads.begin()
    reloads.end()
    assert news(reloads) == [
        (B, "loading", ""), (C, "loading", ""), (B, "done", ""), (C, "done", "")
    ]  # fmt: skip


def test_what_is_abandoned_has_failed_whether_begun_or_not() -> None:
    reloads = Reloads()
    reloads.abandon("nobody asked")
    reloads.ask(A)
    reloads.begin()
    reloads.ask(B)
    reloads.take_news()
    reloads.abandon("draining")
    assert news(reloads) == [(A, "failed", "draining"), (B, "failed", "draining")]
    assert not reloads.active


@pytest.mark.parametrize(
    ("before", "after", "strict", "refused"),
    [
        (None, manifest(x="!bad"), False, False),
        (None, manifest(x="!bad"), True, True),
        (None, manifest(x="1"), True, False),
        (manifest(x="1"), manifest(x="!bad"), False, True),
        (manifest(x="!bad"), manifest(x="!worse"), False, False),
        (manifest(x="!bad"), manifest(x="!worse"), True, True),
        (manifest(x="1"), manifest(x="2", y="!bad"), False, False),
        (manifest(x="1"), manifest(), False, False),
    ],
)
def test_what_loads_must_go_on_loading(
    before: Any, after: Any, strict: bool, refused: bool
) -> None:
    reason = refusal(before, after, strict=strict)
    assert reason.startswith("script x does not load: !") is refused
    assert bool(reason) is refused


def test_what_does_not_load_is_counted_and_named() -> None:
    assert unloaded(manifest(x="1")) == ""
    assert unloaded(manifest(x="1", y="!")) == "1 script does not load: y"
    assert unloaded(manifest(a="!", x="1", y="!")) == "2 scripts do not load: a, y"
    many = unloaded(manifest(**{f"script_{n}": "!" for n in range(2000)}))
    assert many.startswith("2000 scripts do not load: script_0, script_1, ")
    assert many.endswith("…")
    assert len(many) < 250
    wide = unloaded(manifest(**{chr(0x1D400 + n) * 9: "!" for n in range(99)}))
    assert len(wide.encode()) < 250


def test_a_refusal_names_all_that_do_not_load() -> None:
    after = manifest(a="!bad", x="!worse", y="1")
    reason = "script x does not load: !worse; 2 scripts do not load: a, x"
    assert refusal(manifest(x="1"), after, strict=False) == reason


def test_changes_are_named() -> None:
    before = manifest(same="1", other="1", left="1", broken="!")
    after = manifest(same="1", other="2", fresh="1", broken="3")
    text = "scripts changed: broken, other; new: fresh; gone: left"
    assert changes(before, after) == text
    assert changes(before, before) == "nothing changed"
