"""Output of the command line: tables, progress, time left, help and listings."""
