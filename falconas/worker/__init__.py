"""Workers: one process, one script at a time, one connection."""
