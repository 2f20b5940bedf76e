"""HTTP connections, time limits, retries and tokens, for the bucket and the log services alike."""
