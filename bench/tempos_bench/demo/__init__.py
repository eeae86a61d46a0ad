"""The demo: the ways an event can take, side by side, and the two programs it runs in its nodes."""
