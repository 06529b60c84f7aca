"""Compatibility of a synthesizer, a distiller and a student's schedule, checked before any training."""

from __future__ import annotations

from fcil.distillers.common.base import Distiller
from fcil.synthesis import Learns, Synthesizer


def contradiction(synthesizer: Synthesizer, distiller: Distiller, learns: Learns, key: str = "learns") -> str:
    """Return why they cannot work together, beginning with a setting; an empty string if they can.

    Args:
        key: the setting of `learns`.
    """
    between = learns == "between"
    if learns == "within" and not synthesizer.can_teach:
        return f"{key}: within is not allowed with {synthesizer.name}, which teaches none; expected between or after"
    if learns != "after" and synthesizer.chains > 1:
        return (
            f"synthesizer: chains is {synthesizer.chains}, and a student that learns {learns} episodes listens to one "
            f"chain; set {key} to after, or chains to 1"
        )
    if between and distiller.needs_numbers and not synthesizer.numbered:
        return (
            f"distiller: {distiller.name} goes by the number of a sample in a pool, and {synthesizer.name} gives a "
            f"student fresh samples, which have none; set {key} to after, or distiller to kd or l1"
        )
    return ""
