"""The broker's end of the control protocol.

sockets    one for each listen address: answers from the address that was asked
port       carries out what is decided: swaps routes, then has the answer sent
server     decides about a datagram, without I/O, and renders the answer
auth       who asks, and may they (rate: how often)
"""
