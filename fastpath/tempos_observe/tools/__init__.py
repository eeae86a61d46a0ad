"""The tools, a module each that holds one ``TOOL``; what they have in common is the frame's."""

from __future__ import annotations

import importlib

from tempos_observe.tool import Tool

#: What people call it, and the module that it stands in, in the order in which they are listed.
TOOLS = {
    "tcp-latency": "tcp_latency",
    "net-pagefault": "net_pagefault",
    "cd-snoop": "cd_snoop",
    "opensnoop": "opensnoop",
    "scread": "scread",
    "filelife": "filelife",
    "execsnoop": "execsnoop",
    "runqlat": "runqlat",
    "sockstat": "sockstat",
    "sofamily": "sofamily",
    "soprotocol": "soprotocol",
    "socketio": "socketio",
    "udploss": "udploss",
    "udpwait": "udpwait",
    "xdpwhy": "xdpwhy",
    "pauses": "pauses",
}


def tool(name: str) -> Tool:
    """The tool of that name."""
    found: Tool = importlib.import_module(f"tempos_observe.tools.{TOOLS[name]}").TOOL
    return found
