"""How updates are combined and guarded: robust means, clipping, noise, attacks."""
