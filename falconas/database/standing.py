"""What each node of a database may do, by what is known of all of them: pure.

Of several primaries the one on the newest timeline counts; another on an older one was
left behind by a failover and serves nothing at all. Where two are on the same timeline,
nobody can tell which is right, and writes are refused rather than sent to either; so
they are until each node was asked once, for one of them may be a newer primary.

How far a standby is behind is measured against the primary's positions in the log, of
which a history is kept: so no clocks are compared, and a standby that is cut off from
its primary does not pass for up to date. The age of the last transaction it replayed
bounds the lag as well. Positions can be compared within one history only: a standby
that does not follow the newest timeline, or has what the primary has not, is astray,
and nobody can tell what it lacks.

All that holds within one database cluster (what `initdb` made, and copies of it). A
node of another serves nothing; but when nobody is up who has the data of before, a
primary with other data begins anew.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf, isfinite

from falconas.database.topology import Facts, Probe, Role, State

HISTORY = 600
LASTING = 5  # probes: time for a standby to turn to a new primary, before an alarm


@dataclass(slots=True)
class Database:
    """What is known of a database: its newest timeline, and how its log grew.

    Attributes:
        members: What is known of each of its nodes.
        timeline: The newest that any node was seen on.
        leader: Which node that was, the primary if it was seen there.
        positions: The primary's positions in the log, with the time of each.
        seen: When there was a primary last.
        surveyed: Each of its nodes was asked, at a time at least.
        system: The identifier of the primary's database cluster; 0: not known.
        turn: How far the turns of its nodes have come.
    """

    members: list[State] = field(default_factory=list)
    timeline: int = 0
    leader: str = ""
    positions: deque[tuple[float, int]] = field(
        default_factory=lambda: deque(maxlen=HISTORY)
    )
    seen: float = -inf
    surveyed: bool = False
    system: int = 0
    turn: float = 0.0

    # What happens

    def probed(self, state: State, probe: Probe, now: float) -> None:
        """Note what one of its nodes answered."""
        asked_at = state.health.asked_at
        if not state.health.up:
            state.turn = max(state.turn, self.turn)
        self._identify(state, probe)
        state.probed(probe, now)
        if self._is_foreign(state):
            state.disown()
        self._advance(state)
        state.lag = self.lag(probe, now)
        self.survey()
        if self.primary() is state:
            for other in self.members:
                other.compared(probe.lsn, now if asked_at is None else asked_at)
        state.astray = state.astray + 1 if self.against_fresh(state) else 0

    def failed(
        self, state: State, why: str, now: float, *, silent: bool, refused: bool
    ) -> None:
        """Note why one of its nodes did not answer.

        One that refused a connection is what it was: others have one, and can tell. If
        it never answered it is down; but as long as it is the only one, nothing is
        known of it, so that nothing speaks against its workers.
        """
        known = state.probed_at > -inf
        if refused and (known or len(self.members) == 1):
            if self.primary() is state:  # standbys are not measured by what is old
                self.positions.clear()
            state.health.refused(why, now, known=known)
        else:
            state.health.failed(why, now, silent=silent)
        self.survey()

    def survey(self) -> None:
        """Note whether each of its nodes was asked, and where the primary is."""
        known = all(state.health.known for state in self.members)
        self.surveyed = self.surveyed or known
        primary = self.primary()
        if primary is None:
            return
        self.system = primary.system
        if primary.probed_at > self.seen:
            self.seen = primary.probed_at
            self.positions.append((self.seen, primary.lsn))

    def _identify(self, state: State, probe: Probe) -> None:
        """Begin anew with a primary of another cluster, if the old one is gone."""
        new = probe.system not in (0, self.system)
        if not (probe.role is Role.PRIMARY and self.system and new):
            return
        others = [other for other in self.members if other is not state]
        if any(other.health.up and other.system == self.system for other in others):
            return
        for member in self.members:
            member.disown()
        self.system, self.timeline, self.leader = probe.system, 0, ""
        self.positions.clear()

    def _is_foreign(self, state: State) -> bool:
        return 0 != state.system != self.system != 0

    def _advance(self, state: State) -> None:
        """Note a node's timeline; whoever has an older one is left behind."""
        if state.timeline > self.timeline:
            self.timeline, self.leader = state.timeline, state.node.name
            self.positions.clear()
        elif state.role is Role.PRIMARY and state.timeline == self.timeline:
            self.leader = state.node.name

    # What is known

    def primary(self) -> State | None:
        """Return the node that takes the writes."""
        found = [state for state in self.members if not self.against_write(state)]
        return found[0] if found else None

    def lag(self, probe: Probe, now: float) -> float:
        """Return the most seconds that a standby can be behind, if not astray."""
        if probe.role is Role.PRIMARY:
            return 0.0
        bounds = [inf if probe.age is None else max(0.0, probe.age)]
        if self.positions:
            bounds.append(self._since(probe.lsn, now))
        elif probe.streaming:
            bounds.append(0.0)
        return min(bounds)

    def _since(self, lsn: int, now: float) -> float:
        """Return how long ago the primary was surely not beyond a position."""
        if lsn >= self.positions[-1][1]:
            return 0.0
        for at, position in reversed(self.positions):
            if position <= lsn:
                return max(0.0, now - at)
        return inf

    # What speaks against a node; empty if nothing does

    def against_any(self, state: State) -> str:
        """Return what speaks against any work on a node."""
        if not state.health.up:
            return state.health.why
        if self._is_foreign(state):
            return f"of another database cluster: {state.system}, not {self.system}"
        if state.role is Role.UNKNOWN:
            return state.health.why or "its role is not known"
        if self._is_left_behind(state):
            own = state.timeline
            return f"a primary left behind on timeline {own} of {self.timeline}"
        return ""

    def against_write(self, state: State) -> str:
        """Return what speaks against writes on a node."""
        if why := self.against_any(state):
            return why
        if state.role is not Role.PRIMARY:
            return "a standby"
        if rivals := self._rivals(state):
            return f"a primary on the same timeline as {', '.join(rivals)}"
        unknown = [s.node.name for s in self.members if not s.health.known]
        if unknown and not self.surveyed:
            return f"a primary, but {', '.join(unknown)} may be a newer one"
        return ""

    def against_fresh(self, state: State) -> str:
        """Return why nobody can tell how old the state is that a standby shows."""
        if state.role is not Role.STANDBY:
            return ""
        if state.timeline < self.timeline:
            own = state.timeline or "unknown"
            return f"it follows timeline {own}, {self._whom()} is on {self.timeline}"
        if state.beyond:
            return f"it has replayed what {self._whom()} does not have"
        return ""

    def against_read(
        self, state: State, max_lag: float | None, min_lsn: int | None, now: float
    ) -> str:
        """Return what speaks against a read on a node."""
        why = self.against_any(state)
        if not why and (max_lag is not None or min_lsn is not None):
            why = self.against_fresh(state)
        return why or state.against_read(max_lag, min_lsn, now)

    def _is_left_behind(self, state: State) -> bool:
        return state.role is Role.PRIMARY and state.timeline < self.timeline

    def _rivals(self, state: State) -> list[str]:
        """Return the primaries that one on the newest timeline has beside it."""
        return [
            other.node.name
            for other in self.members
            if other is not state
            and other.health.up
            and other.role is Role.PRIMARY
            and other.timeline == state.timeline
        ]

    def _whom(self) -> str:
        primary = self.primary()
        return f"the primary {primary.node.name}" if primary else self.leader

    # What is to be shown

    def facts(self, state: State, now: float) -> Facts:
        """Return what is to be shown of a node."""
        health, lag = state.health, state.lag_at(now)
        astray = self.against_fresh(state)
        reason = self.against_any(state) or astray
        if not reason and state.role is Role.PRIMARY:
            reason = self.against_write(state)
        return Facts(
            state.node.name,
            state.node.database,
            state.role,
            health.up,
            health.suspect,
            state.lsn,
            0 if state.beyond else state.timeline,
            lag if health.up and isfinite(lag) and not astray else None,
            state.latency,
            health.share(now),
            reason or health.why,
        )

    def alarm(self, state: State) -> str:
        """Return what an operator should do about a node that is up; empty: nothing."""
        if not state.health.up:
            return ""
        name, leader = state.node.name, self.leader
        if self._is_foreign(state):
            return (
                f"node {name} is {self.against_any(state)}: it gets no work; it is not"
                f" a node of the database whose primary was {leader}"
            )
        if self._is_left_behind(state):
            return (
                f"node {name} is a primary left behind on timeline {state.timeline}"
                f" ({leader} is on {self.timeline}): it gets no work; make it a"
                " standby again (pg_rewind) or stop it"
            )
        rivals = self._rivals(state) if state.role is Role.PRIMARY else []
        if rivals and name < min(rivals):
            return (
                f"nodes {', '.join(sorted([name, *rivals]))} are primaries on the same"
                " timeline: none of them gets writes; stop the wrong one, or, if they"
                " are one server, name it once, if two databases, set `database`"
            )
        if state.astray < LASTING:
            return ""
        hint = (
            "" if state.beyond else "; if it does follow, grant pg_monitor to our user"
        )
        return (
            f"node {name} does not follow the primary: {self.against_fresh(state)};"
            " it gets only reads that may be old; make it a standby again"
            f" (pg_rewind){hint}"
        )

    def check_invariants(self) -> None:
        """Raise AssertionError if the state contradicts itself."""
        assert all(state.timeline <= self.timeline for state in self.members)
        assert sum(not self.against_write(state) for state in self.members) <= 1
        times = [at for at, _ in self.positions]
        assert times == sorted(times)
