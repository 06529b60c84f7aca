"""Settings of the discovery of shapelets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

Thresholds = Literal["all", "quantiles"]
"""Which distances may part a class from the others: every one, or five of them."""


@dataclass(frozen=True, kw_only=True)
class Discovery:
    """Search for the pieces of series that tell a class from the others."""

    window: Annotated[int, Field(ge=0)] = 20
    """Steps by which a shapelet may lie earlier or later in another series than in its own (w)."""
    per_class: Annotated[int, Field(ge=1, le=1000)] = 10
    """Shapelets of a class (g)."""
    points: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Perceptually important points of a series, as a share of its length; at least five."""
    thresholds: Thresholds = "all"
    """Distances tried as the border of a class: `all`; `quantiles`: where 20, 40, 60, 80 and 100 % of the class lie
    below. Differs: the public code means `quantiles`, and tries the first two of them alone, because 0.2 + 0.2 + 0.2
    is not 0.6 in floating point."""
    series_per_class: Annotated[int, Field(ge=2)] | None = None
    """Series of a class that are searched and compared, evenly spaced; null takes all. Time grows with its square."""
