"""Joint: federated averaging on all data of the tasks seen so far; the upper bound.

Paper: Babakniya et al., NeurIPS 2023, arXiv:2311.07784, who call it ORACLE.

An upper bound, not a usable method: every client keeps all its data. Its remaining loss of accuracy is due to
federation, not to forgetting.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from fcil import Strategy


@dataclass(frozen=True, kw_only=True)
class Joint(Strategy):
    data: ClassVar[Literal["task", "seen"]] = "seen"
    scenarios = frozenset({"classes", "domains"})
    paper = "Babakniya et al., NeurIPS 2023, arXiv:2311.07784, who call it ORACLE"
