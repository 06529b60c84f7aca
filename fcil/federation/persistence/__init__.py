"""Records that a run keeps of itself beside its checkpoints."""
