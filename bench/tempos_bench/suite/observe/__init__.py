"""The observation tools of `tempos observe` beside others."""
