"""The platform's file: what it may hold, what contradicts itself in it, and the values that come of it."""
