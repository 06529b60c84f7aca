"""Shapelets: pieces of series that tell a class from the others."""

from __future__ import annotations

from fcil.shapelets.discovery import Progress, Shapelets, discover
from fcil.shapelets.settings import Discovery

__all__ = ["Discovery", "Progress", "Shapelets", "discover"]
