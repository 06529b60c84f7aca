"""Compatibility of a synthesizer, a distiller and a student's schedule, checked before any training."""

from __future__ import annotations

from typing import Literal

from fcil.distillers.common.base import Distiller
from fcil.synthesis import Synthesizer

Learns = Literal["between", "after"]
"""Time at which a student learns: between the episodes of one chain, or after all episodes of all chains."""


def contradiction(synthesizer: Synthesizer, distiller: Distiller, learns: Learns, key: str = "learns") -> str:
    """Return why they cannot work together, beginning with a setting; an empty string if they can.

    Args:
        key: the setting of `learns`.
    """
    between = learns == "between"
    if between and synthesizer.chains > 1:
        return (
            f"synthesizer: chains is {synthesizer.chains}, and a student that learns between episodes listens to one "
            f"chain; set {key} to after, or chains to 1"
        )
    if between and distiller.needs_numbers and not synthesizer.numbered:
        return (
            f"distiller: {distiller.name} goes by the number of a sample in a pool, and {synthesizer.name} gives a "
            f"student fresh samples, which have none; set {key} to after, or distiller to kd or l1"
        )
    return ""
