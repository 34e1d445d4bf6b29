from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from falconas.settings import OPTIONS, SECTIONS, Settings


def test_each_field_is_an_option_with_help_and_a_default_of_its_kind() -> None:
    count = 0
    for section in fields(Settings):
        for item in fields(SECTIONS[section.name]):
            count += 1
            option = OPTIONS[f"{section.name}.{item.name}"]
            assert option.kind.parse(option.default) == item.default
            assert type(option.kind.parse(option.default)) is type(item.default)
            assert option.help[:1].isupper()
            assert option.help.endswith(".")
    assert count == len(OPTIONS)


def test_names() -> None:
    option = OPTIONS["worker.drain_timeout"]
    assert option.variable == "FALCONAS_WORKER__DRAIN_TIMEOUT"
    assert option.flag == "--drain-timeout"
    assert OPTIONS["log.level"].flag == "--log-level"
    assert OPTIONS["worker.count"].short == "-n"


def test_who_dials_follows_who_listens() -> None:
    for option in OPTIONS.values():
        if option.follows:
            assert option.default == OPTIONS[option.follows].default


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().broker.budget = 1.0  # type: ignore[misc]


def test_the_connection_string_is_secret() -> None:
    assert [o.path for o in OPTIONS.values() if o.secret] == ["database.dsn"]
