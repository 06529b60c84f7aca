"""What the command line shows: tables, progress, time left, help and listings."""
