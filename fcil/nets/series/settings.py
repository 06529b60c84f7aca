"""Settings of ShapeFormer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from fcil.shapelets import Discovery


@dataclass(frozen=True, kw_only=True)
class ShapeFormerSettings(Discovery):
    """Shapelets of a ShapeFormer: how they are found, and what the net makes of them."""

    read_out: Literal["mean", "token"] = "mean"
    """Output of the class branch: the `mean` of all tokens; `token`: the first alone, as in the public code, which
    is a shapelet of the first class however many come after it."""
    complexity: Literal["same", "public_code"] = "same"
    """Complexity of a window: `same`: as that of a shapelet; `public_code`: its square, without the root."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.4
    """Share of values dropped in the feed-forward layers and after the positions."""
    share_shapelets: bool = False
    """Send shapelets, which are raw pieces of the clients' series, to the server and to all clients; else they stay
    with the client that found them, and the server has the generic branch alone."""
    silent: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of training series for which the class branch is zero, so that the net can do without it: as a server must
    to which no shapelets are sent."""
