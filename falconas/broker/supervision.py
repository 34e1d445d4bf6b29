"""What supervisors say of themselves, their scripts and workers, or say no longer."""

from __future__ import annotations

from falconas.broker import detours
from falconas.broker.flow import UNKNOWN_PEER, Flow
from falconas.broker.hosts import beat_of
from falconas.broker.losses import Losses
from falconas.broker.pool import script_infos
from falconas.broker.records import Body, Loss, Peer, Socket, Worker
from falconas.codec import decode_value
from falconas.errors import InvalidArgument, Started
from falconas.protocol import Heartbeat, Register


def register(
    flow: Flow, peer: Peer, register: Register, body: Body, now: float
) -> None:
    """Take in a supervisor and its scripts."""
    try:
        manifest = decode_value(body)
        infos = script_infos(manifest)
    except ValueError as error:
        flow.answer(peer, register.id, InvalidArgument(f"manifest: {error}"))
        return
    flow.hosts.register(peer.identity, register, manifest["scripts"], now)
    pool = flow.pool
    news = pool.learn(register.manifest, infos)
    if register.extras.get("fresh") is True:
        news = pool.pardon({register.manifest}) or news
    if news or pool.quarantine:  # which version is the newest may have changed
        flow.refile(now)
    flow.welcome(peer, register.id, now)


def heartbeat(
    flow: Flow, losses: Losses, peer: Peer, beat: Heartbeat, body: Body, now: float
) -> None:
    """Note that a supervisor lives; workers that it no longer lists do not."""
    if not flow.hosts.heartbeat(beat, peer.identity, now):
        flow.welcome(peer, UNKNOWN_PEER, now)
        return
    alive, nodes = beat_of(body)
    pool, supervisor = flow.pool, beat.supervisor
    gone = [] if alive is None else pool.missing(supervisor, alive, now)
    for worker in gone:  # they get nothing more, whatever the news of nodes
        pool.set_ready(worker, False)
    detours.report(flow, supervisor, nodes, now)
    _let_go(flow, losses, gone, "it is gone", now)
    extras = {"epoch": flow.epoch, "now": now}
    message = Heartbeat(beat.id, supervisor, extras)
    flow.sends.append(peer.send(message, b""))


def sweep(flow: Flow, losses: Losses, now: float) -> None:
    """Let the workers of those go who have been silent for too long."""
    silent = [supervisor.uuid for supervisor in flow.hosts.silent(now)]
    workers = [worker for uuid in silent for worker in flow.pool.of_supervisor(uuid)]
    _let_go(flow, losses, workers, "its supervisor is silent", now)
    for uuid in silent:
        detours.forget(flow, uuid, now)


def _let_go(
    flow: Flow, losses: Losses, workers: list[Worker], reason: str, now: float
) -> None:
    losses.lose_all(workers, Loss(None, Started.UNKNOWN, reason), now)
    for worker in workers:  # should they live, they introduce themselves
        flow.welcome(Peer(Socket.BACKEND, worker.identity), UNKNOWN_PEER, now)
