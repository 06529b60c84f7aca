"""Joint: federated averaging on all data of the tasks seen so far; the upper bound.

Not a method anyone may use in earnest: every client keeps everything. MFCL (Babakniya et al.,
NeurIPS 2023) calls it ORACLE. What it still loses, it loses to federation, not to forgetting.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from fcil import Strategy


@dataclass(frozen=True, kw_only=True)
class Joint(Strategy):
    data: ClassVar[Literal["task", "seen"]] = "seen"
