from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from falconas.settings import (
    FAMILIES,
    MEMBERS,
    OPTIONS,
    SECTIONS,
    Node,
    Settings,
    known,
)


def test_each_field_is_an_option_with_help_and_a_default_of_its_kind() -> None:
    classes = SECTIONS | {f"{family}.NAME": cls for family, cls in FAMILIES.items()}
    count = 0
    for section, cls in classes.items():
        for item in fields(cls):
            count += 1
            option = (OPTIONS | MEMBERS)[f"{section}.{item.name}"]
            assert option.kind.parse(option.default) == item.default
            assert type(option.kind.parse(option.default)) is type(item.default)
            assert option.help[:1].isupper()
            assert option.help.endswith(".")
    assert count == len(OPTIONS) + len(MEMBERS)
    assert {field.name for field in fields(Settings)} == {*SECTIONS, *FAMILIES}


def test_members_of_families_have_options_of_their_own() -> None:
    every = known({"nodes": ["n1", "n2"], "groups": []})
    option = every["nodes.n2.dsn"]
    assert option.variable == "FALCONAS_NODES__N2__DSN"
    assert len(every) == len(OPTIONS) + 2 * len(fields(Node))
    settings = Settings(nodes={"n1": Node(), "n2": Node(dsn="host=h")})
    assert option.value(settings) == "host=h"
    assert OPTIONS["worker.count"].value(settings) == 0


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


def test_connection_strings_are_secret() -> None:
    secret = [o.path for o in (OPTIONS | MEMBERS).values() if o.secret]
    assert secret == ["database.dsn", "nodes.NAME.dsn"]
