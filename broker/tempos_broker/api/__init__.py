"""The control API for people and scripts; needs what `tempos[broker]` installs beside the broker itself."""
