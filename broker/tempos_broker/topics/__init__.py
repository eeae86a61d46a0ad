"""Topics that come and go while the broker runs: which there are, who made them, the orders that do it."""
