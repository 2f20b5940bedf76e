"""Around a run: the environment and the event before it, the log and the summary of it."""
