"""What operators want of supervisors goes through the broker, which knows them."""

from __future__ import annotations

from falconas.broker.flow import Flow
from falconas.broker.records import Peer, Send, Socket
from falconas.codec import encode_value
from falconas.errors import FalconError
from falconas.protocol import Drain, Reload, public_extras


def pass_on(flow: Flow, peer: Peer, message: Reload | Drain, now: float) -> None:
    """Tell the host that the extras name, or all; the answer lists who was told."""
    try:
        told = flow.hosts.named(message.extras.get("host"))
    except FalconError as error:
        flow.answer(peer, message.id, error)
        return
    if isinstance(message, Reload) and flow.pool.pardon({s.manifest for s in told}):
        flow.refile(now)
    message = message._replace(extras=public_extras(message.extras))
    for supervisor in told:
        to = supervisor.identity
        flow.sends.append(Send(Socket.CONTROL, to, (), message, b""))
    hosts = [supervisor.host for supervisor in told]
    flow.answer(peer, message.id, encode_value({"hosts": hosts}))
