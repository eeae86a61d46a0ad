"""`tempos top` in a terminal: what the broker tells those who look, drawn anew at every step and every key.

state    what is known of the broker, from what it tells; no input or output
follow   asks for it, again where the broker is away
views    a state as lines of a screen; no input or output
screen   the terminal: keys in, lines out
"""
