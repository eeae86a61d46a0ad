"""What processes and the network really do: tools that observe this machine by eBPF, without kprobes.

Of a tool the programs stand in `fastpath/bpf/observe/NAME.bpf.c`, what it shows in `NAME.py` here.
"""
