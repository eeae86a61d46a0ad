"""Functions that events are for: what `invoke-peers` and its like call, and who calls it."""
