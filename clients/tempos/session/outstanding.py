"""The requests of a session that are not answered yet, and the datagrams that are to be sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tempos import auth, control
from tempos.errors import WireError
from tempos.session.parts import Pending

#: Refusals after which a request is signed by what they tell.
_FOLLOWED = (control.Code.CLOCK, control.Code.ADDRESSEE)
#: Proofs that a request needs: of the address, and of the endpoint.
STEPS = 2
#: Tries of one request without an answer until the broker counts as one that does not.
PATIENT = 2
#: Tries after which one that was given before is gone back to: the one since then is not good.
GOES_BACK = 2


class Outstanding(dict[int, Pending]):
    """Requests by their ids. With a ``signer`` every datagram is signed, each time anew."""

    def __init__(self, client: int, signer: auth.Signer | None) -> None:
        super().__init__()
        self._client = client
        self._signer = signer
        self._next_id = client & control.U32
        self.outgoing: list[bytes] = []
        #: Whether what is to be sent has the broker send to our data port, or keeps it sending there.
        self.opens_way = False

    def begin(
        self,
        op: str,
        now: float,
        fields: Mapping[str, Any],
        told: Mapping[str, Any] | None = None,
        *,
        roomy: bool = False,
    ) -> int:
        """Send a request for the first time; its id."""
        self._next_id = request = (self._next_id + 1) & control.U32
        datagram = control.encode_request(op, request, self._client, roomy=roomy, **fields)
        due = now + control.RETRY_AFTER[0]
        since = fields.get("since") or ()
        self[request] = pending = Pending(
            op, fields, datagram, now, due, told=told, roomy=roomy, since=since, went_on=now
        )  # fmt: skip
        self.put(pending, now)
        return request

    def put(self, pending: Pending, now: float) -> None:
        """Send it, once more."""
        datagram, pending.sent = pending.datagram, now
        self.opens_way |= pending.op == "subscribe"
        if self._signer is not None:
            datagram, nonce = self._signer.sign(datagram)
            pending.nonces.append(nonce)
        self.outgoing.append(datagram)

    def at_port(self, port: int) -> None:
        """From now on data is received at this port; of what is asked for again nothing is asked any more."""
        for request, pending in list(self.items()):
            if pending.again:
                del self[request]
            elif "port" in pending.fields and pending.until is None:
                self.alter(request, port=port, **({"proof": b""} if "proof" in pending.fields else {}))

    def alter(self, request: int, **fields: Any) -> None:
        """Let it say something else when it is sent again."""
        pending = self[request]
        pending.fields = {**pending.fields, **fields}
        pending.datagram = control.encode_request(
            pending.op, request, self._client, roomy=pending.roomy, **pending.fields
        )

    def give(self, request: int, proof: bytes, now: float) -> None:
        """Ask at once with a proof; no oftener than a broker asks for some that is well.

        Who was given one is not without an answer: for the first few of them it is asked on for longer.
        """
        pending = self[request]
        if pending.fields.get("proof", proof) == proof or pending.proved >= 2 * pending.tries:
            return
        if pending.tries < pending.given.get(proof, -GOES_BACK) + GOES_BACK:
            # It came with an answer to what had waited at the broker since before the next one was given.
            return
        pending.given[proof] = pending.tries
        pending.proved += 1
        # Asked now, it is repeated no sooner than what nobody has answered.
        tries = min(pending.tries, len(control.RETRY_AFTER))
        pending.due = max(pending.due, now + control.RETRY_AFTER[tries - 1])
        if pending.proved <= STEPS:
            pending.went_on = now
        self.alter(request, proof=proof)
        self.put(pending, now)

    def answered(self, request: int, pending: Pending, now: float) -> None:
        """It is done with. What was sent before it, and is asked for ever more rarely, is due at once.

        For the broker is there, and has not got that, or was another one then.
        """
        self.pop(request, None)
        for each in self.values():
            if each.tries > PATIENT and each.until is None and each.sent < pending.sent:
                each.due = min(each.due, now)

    def signs_otherwise(self, pending: Pending, reply: control.Reply, time_ms: int) -> bool:
        """Whether a request is to be asked again by the broker's clock, or name.

        Once for each of the two, then a refusal is one.
        """
        code = None if reply.error is None else reply.error.code
        if self._signer is None or code not in _FOLLOWED or code in pending.followed:
            return False
        pending.follow(code)
        if code == control.Code.CLOCK:
            self._signer.follow(time_ms)
        else:
            self._signer.address(reply.addressee)
        return True

    def hear_unsigned(self, data: bytes) -> None:
        """A reply that nobody vouches for: what it says is told if no other comes."""
        try:
            reply = control.decode_reply(data)
        except WireError:
            return
        pending = self.get(reply.id)
        if pending is not None and reply.error is not None:
            pending.last_word = f" An unsigned reply says: {reply.error}"

    def take_opens_way(self) -> bool:
        """Whether it did since this was asked last."""
        opens, self.opens_way = self.opens_way, False
        return opens

    def take(self) -> list[bytes]:
        """What is to be sent now."""
        outgoing, self.outgoing = self.outgoing, []
        return outgoing
