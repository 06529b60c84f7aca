"""Between the verbs and a terminal: help, listings, streams that break, Ctrl-C."""
