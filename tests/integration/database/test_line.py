from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from falconas.database.session import Session
from falconas.database.unserved import Refused, SessionLost

if TYPE_CHECKING:
    from falconas.database.cluster import EmbeddedCluster

POSITION = "SELECT pg_current_wal_insert_lsn() - '0/0'"


def test_it_knows_its_nodes_role_and_learns_of_a_promotion(
    cluster: EmbeddedCluster,
) -> None:
    with (
        closing(Session.connect(cluster["n1"].dsn())) as primary,
        closing(Session.connect(cluster["n2"].dsn())) as standby,
    ):
        assert (primary.role, standby.role) == ("primary", "standby")
        for autocommit in (False, True):
            with pytest.raises(Refused, match=r"during recovery|is a standby"):
                standby.begin_write(autocommit=autocommit)
            assert not standby.sound
        cluster.promote(cluster["n2"])
        standby.begin_write()
        assert standby.role == "primary"
        standby.close()
        assert standby.role == "unknown"


def test_a_standby_shows_what_it_has_replayed_and_a_primary_everything(
    cluster: EmbeddedCluster, cluster_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, standby = cluster["n1"], cluster["n2"]
    standby.execute("SELECT pg_wal_replay_pause()")
    try:
        primary.execute(f"COMMENT ON DATABASE {cluster_database} IS 'new'")
        lsn = int(primary.execute(POSITION)[0][0])
        with (
            closing(Session.connect(primary.dsn())) as at_primary,
            closing(Session.connect(standby.dsn())) as at_standby,
        ):
            assert not at_standby.shows(lsn)
            assert at_standby.shows(1)
            standby.execute("SELECT pg_wal_replay_resume()")
            primary.execute("SELECT pg_switch_wal()")  # the position is passed for sure
            cluster.wait_until_caught_up([standby])
            assert at_standby.shows(lsn)
            monkeypatch.setattr(at_primary, "_command", None)  # it asks nobody
            assert at_primary.shows(lsn + (1 << 40))
    finally:
        standby.execute("SELECT pg_wal_replay_resume()")


def test_whoever_is_asked_on_a_lost_connection_has_lost_it(
    cluster: EmbeddedCluster,
) -> None:
    with closing(Session.connect(cluster["n2"].dsn())) as session:
        pid = session._connection.info.backend_pid
        cluster["n2"].execute(f"SELECT pg_terminate_backend({pid}, 5000)")
        with pytest.raises(SessionLost) as caught:
            session.shows(1)
        assert type(caught.value) is SessionLost
        assert not session.sound
