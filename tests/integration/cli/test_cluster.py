from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from falconas.cli import main
from falconas.database.cluster import EmbeddedCluster

Command = Callable[..., list[list[str]]]


@pytest.fixture
def command(
    cluster: EmbeddedCluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Run the command on the tests' nodes; returns name and state of each after it."""
    running = partial(EmbeddedCluster.running, cluster.folder)
    monkeypatch.setattr(EmbeddedCluster, "running", lambda _: running())

    def run(*arguments: str) -> list[list[str]]:
        with pytest.raises(SystemExit) as caught:
            main(["cluster", *arguments])
        said = capsys.readouterr()
        assert caught.value.code == (2 if said.err else 0)
        return [line.split()[:2] for line in said.out.splitlines()] or [[said.err]]

    return run


def test_a_failover_is_practised(cluster: EmbeddedCluster, command: Command) -> None:
    """As somebody does who wants to see what FalconAS makes of it."""
    assert command() == [["n1", "primary"], ["n2", "standby"], ["n3", "standby"]]
    assert command("kill", "n1")[0] == ["n1", "down"]
    assert not cluster["n1"].running
    assert command("promote", "n2")[1:] == [["n2", "primary"], ["n3", "standby"]]
    assert "no other primary that n2" in command("rejoin", "n2")[0][0]
    assert command("start", "n1")[0] == ["n1", "primary"]  # one that is left behind
    assert command("rejoin", "n1")[0] == ["n1", "standby"]
    for node in (cluster["n1"], cluster["n3"]):
        cluster.wait_until_caught_up([node])


def test_a_standby_that_was_away_follows_the_new_primary(
    cluster: EmbeddedCluster, command: Command
) -> None:
    assert command("stop", "n3")[2] == ["n3", "down"]
    command("promote", "n2")
    assert command("start", "n3")[2] == ["n3", "standby"]
    cluster.wait_until_caught_up([cluster["n3"]])
    assert command("pause", "n3")[2] == ["n3", "paused"]
    assert "n3 is no standby that runs" in command("promote", "n3")[0][0]
    assert command("resume", "n3")[2] == ["n3", "standby"]


def test_a_node_must_be_named_and_run(
    cluster: EmbeddedCluster, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "name one of the nodes n1, n2, n3" in command("stop")[0][0]
    assert "name one of the nodes n1, n2, n3" in command("stop", "n4")[0][0]
    monkeypatch.setattr(EmbeddedCluster, "running", lambda _: None)
    assert "`falconas dev --nodes 3` starts some" in command()[0][0]
