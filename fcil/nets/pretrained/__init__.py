"""Nets and weights of other libraries: where a training may begin."""
