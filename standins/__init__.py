"""Local stand-ins for the services the job talks to, on free ports of the loopback address."""
