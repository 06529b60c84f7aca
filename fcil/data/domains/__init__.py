"""Domains in place of classes: the same classes seen in other ways, a task for each."""
