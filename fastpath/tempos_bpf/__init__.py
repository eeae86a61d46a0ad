"""BPF for Python: typed access to libbpf, whatever the programs are for. No C pointer leaves here."""
