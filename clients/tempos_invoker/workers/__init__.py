"""Workers as the invoker sees them: processes that run functions, each at the end of a socket pair."""
