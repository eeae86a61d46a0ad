"""Time-aware schedules (IEEE 802.1Qbv) for what the broker sends: ``tempos tsn plan``.

Each step in a file of its own: :mod:`wire` knows how long a frame takes, :mod:`traffic` what is to be
carried, :mod:`schedule` makes windows of both, :mod:`tc` the commands, :mod:`text` the words; only
:mod:`apply` touches the machine.
"""
