"""The Controller's commands, which know it by its API."""
