"""Reading and writing of files: bounded, whole or not at all, locked."""
