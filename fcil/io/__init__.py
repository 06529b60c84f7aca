"""How files are read and written: bounded, whole or not at all, locked."""
