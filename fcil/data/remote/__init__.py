"""Data sets that are fetched: where they are published, and how they come into the data folder."""
