"""Aggregation of updates and its protection: robust means, clipping, noise, attacks."""
