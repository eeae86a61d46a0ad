"""What was found: figures and targets, comparison of runs, the page, its charts and pictures."""
