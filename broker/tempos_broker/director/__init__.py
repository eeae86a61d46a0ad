"""What other programs that copy and spread datagrams were told, as topics by port.

Each reader takes files of one program and makes :class:`~tempos_broker.director.found.Found` of them:
what can be had of tempos, and in words what cannot. None of them changes anything.
"""
