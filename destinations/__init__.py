"""Log services: what a line is to each of them, and what their answers mean."""
