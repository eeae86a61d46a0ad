"""What is to be done first if who asks to be a member has not shown yet that it receives where it says."""

from __future__ import annotations

from tempos.control import Code, Request
from tempos.session.proof import encode
from tempos.wire import IP_UDP_OVERHEAD
from tempos_broker.account.accounts import Holder
from tempos_broker.control.decisions import Decision, Proving, Refusal, Way
from tempos_broker.control.proofs import Proofs, Step
from tempos_broker.membership import Registry

#: How addresses begin that no other machine can send from: a kernel takes nothing from there off a wire.
LOOPBACK = "127."


def unproven(
    proofs: Proofs | None, registry: Registry, holder: Holder, request: Request, way: Way, now: float
) -> Decision | None:
    """The answer to a request of ``holder`` that proves too little; None: it proves enough, or need not."""
    told, asked = request.fields["proof"], way.asked
    if proofs is None:
        return None
    if told is None and holder.ip.startswith(LOOPBACK):
        # Only this very machine sends from there.
        return None
    if told and proofs.holds(told, Step.ENDPOINT, holder, asked, now):
        return None
    if not (told and proofs.holds(told, Step.ADDRESS, holder, asked, now)):
        if told != b"" and registry.is_known(holder, asked):
            return None
        granted = proofs.grant(Step.ADDRESS, holder, asked, now)
        text = "who asks has to prove its address"
        return Decision(way, Refusal(Code.PROVE, text, "repeat the proof", granted, proofs.data_port))
    datagram = encode(request.client, proofs.grant(Step.ENDPOINT, holder, asked, now))
    text = f"to {holder.ip}:{holder.port} the data port has sent what proves that you receive there"
    # Both together are no more than what was asked with.
    room = way.room - len(datagram) - IP_UDP_OVERHEAD
    hint = "repeat it as 'proof'; if nothing comes, a firewall or NAT is in the way"
    proving = Proving(datagram, (holder.ip, holder.port), registry.leaves_from(holder.ip, asked))
    return Decision(way._replace(room=room), Refusal(Code.PROVE, text, hint), proving=proving)
