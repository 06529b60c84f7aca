"""Base classes of synthesizers: with a generator loop, over pixels, with a student, of several resolutions."""
