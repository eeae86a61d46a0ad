"""Clients made, changed and removed through the control API; what they may be, the file's own table says.

A body is an object with the keys of a ``[[client]]`` of the file. Keys come in, and none goes out. Where the
API takes no token, everybody on the machine could give himself every right: such orders are refused there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from starlette.responses import JSONResponse, Response

from tempos_broker.api.arguments import CLIENT_ID
from tempos_broker.api.names import in_address
from tempos_broker.config.clients import CLIENT
from tempos_broker.documents import Documents
from tempos_broker.topics.orders import Conflict
from tempos_daemon.operations import Body, Operations, Truth
from tempos_daemon.schema import json_schema

_CLIENT = "/v1/clients/{client:name}"


class ClientCommands(Protocol):
    """What this part of the API does to a broker.

    :class:`Refused` and :class:`~tempos_broker.config.clients.BadClient` say why not.
    """

    @property
    def documents(self) -> Documents: ...

    async def add_client(self, document: Mapping[str, Any]) -> dict[str, Any]: ...

    async def set_client(self, name: str, changes: Mapping[str, Any]) -> dict[str, Any]: ...

    async def remove_client(self, name: str) -> int: ...

    async def demand_signatures(self, *, signatures: bool) -> None: ...


def add_client_orders(api: Operations, broker: ClientCommands, *, guarded: bool) -> None:
    """Add the operations. ``guarded``: who asks has brought a token."""

    def check() -> None:
        if not guarded:
            raise Conflict(
                "this API takes no token, so everybody on this machine could give himself every right",
                "set broker.api_token_file or broker.api_token, and start the broker anew",
            )

    @api.add(
        "GET", "/v1/clients", "Who may ask the broker, by their signatures; no key is told", "ClientsOut"
    )
    async def get_clients() -> dict[str, Any]:
        return broker.documents.clients()

    @api.add(
        "POST",
        "/v1/clients",
        "Make a client: it may ask when this is answered, and from then on everybody has to sign",
        "ClientOut",
        (409, 422),
        status=201,
        body=Body(schema=json_schema(CLIENT)),
    )
    async def post_client(body: dict[str, Any]) -> Response:
        check()
        made = await broker.add_client(body)
        return JSONResponse(made, 201, {"Location": f"/v1/clients/{in_address(made['id'])}"})

    @api.add(
        "PATCH",
        _CLIENT,
        "Change the key or the rights of a client that was made at run time; null: no rights",
        "ClientOut",
        (404, 409, 422),
        body=Body(schema=json_schema(CLIENT, optional=set(CLIENT))),
        client=CLIENT_ID,
    )
    async def patch_client(client: str, body: dict[str, Any]) -> dict[str, Any]:
        check()
        return await broker.set_client(client, body)

    @api.add(
        "DELETE",
        _CLIENT,
        "Remove a client that was made at run time: what it signs is refused from now on",
        "ClientRemoved",
        (404, 409, 422),
        client=CLIENT_ID,
    )
    async def delete_client(client: str) -> dict[str, Any]:
        check()
        return {"removed": client, "clients": await broker.remove_client(client)}

    @api.add(
        "POST",
        "/v1/signing",
        "Demand signatures of everybody, though there may be no client yet, or, where there is none, no more",
        "ClientsOut",
        (409, 422),
        body=Body({"signed": Truth("whether everybody has to sign")}, told=("signed",)),
    )
    async def post_signing(signed: bool) -> dict[str, Any]:
        check()
        await broker.demand_signatures(signatures=signed)
        return broker.documents.clients()
