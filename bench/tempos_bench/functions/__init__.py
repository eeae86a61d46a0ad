"""The function that ways to run functions are measured with, in several languages, and what runs it."""
