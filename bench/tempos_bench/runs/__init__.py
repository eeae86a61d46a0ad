"""One run of a scenario: its file, its rounds, what it keeps and tells, and its plan."""
