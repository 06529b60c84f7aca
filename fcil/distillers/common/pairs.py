"""What a synthesizer, a distiller and a student's schedule ask of each other: said before anything is trained."""

from __future__ import annotations

from fcil.distillers.common.base import Distiller
from fcil.synthesis import Learns, Synthesizer


def contradiction(synthesizer: Synthesizer, distiller: Distiller, learns: Learns, key: str = "learns") -> str:
    """What keeps them from working together, beginning with a setting; an empty string where nothing does.

    Args:
        key: where `learns` is said.
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
