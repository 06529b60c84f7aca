"""Aggregation of the updates of a round: the mean, or a rule that a few malicious clients cannot bend.

| rule           | paper                          | holds while                               |
|----------------|--------------------------------|-------------------------------------------|
| `mean`         | McMahan et al., AISTATS 2017   | no client lies                            |
| `median`       | Yin et al., ICML 2018          | fewer than half of a round's clients lie  |
| `trimmed_mean` | Yin et al., ICML 2018          | at most `share` of them lie               |
| `krum`         | Blanchard et al., NeurIPS 2017 | at most `malicious` of 2 malicious + 3 do |
| `multi_krum`   | Blanchard et al., NeurIPS 2017 | the same                                  |
| `bulyan`       | El Mhamdi et al., ICML 2018    | at most `malicious` of 4 malicious + 3 do |

All but the mean hold all updates of a round in memory at once; the Krums and Bulyan are Flower's implementations.
`median`, `trimmed_mean` and `bulyan` weigh clients alike, whatever the strategy's weighting; the Krums
weigh those they keep as the strategy says. Metrics are the plain mean over all, a liar's included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from fcil.config import Where
from fcil.config.json_schema import Schema, Schemas
from fcil.federation.protection.tagged_choice import read_tagged, short_form
from fcil.types import Count


@dataclass(frozen=True, kw_only=True)
class Aggregation:
    """A rule by name: `mean`, or `{krum: {malicious: 1}}`."""

    name: ClassVar[str] = ""

    def problem(self, clients: int) -> str:
        """Return why this number of clients in a round does not suffice, or an empty string."""
        return ""

    @classmethod
    def from_yaml(cls, raw: Any, where: Where) -> Aggregation:
        return read_tagged(RULES, "aggregation", raw, where)

    @classmethod
    def to_json_schema(cls, schemas: Schemas) -> Schema:
        return schemas.of_choice("aggregation", RULES)

    def to_yaml(self) -> Any:
        return short_form(self)


@dataclass(frozen=True, kw_only=True)
class Mean(Aggregation):
    """The weighted mean of all, with the strategy's weights."""

    name = "mean"


@dataclass(frozen=True, kw_only=True)
class Median(Aggregation):
    """The median of each number over the clients."""

    name = "median"

    def problem(self, clients: int) -> str:
        return "" if clients >= 3 else f"the median of {clients} clients is their mean; it needs at least 3 in a round"


@dataclass(frozen=True, kw_only=True)
class TrimmedMean(Aggregation):
    """The mean of each number without a share of the largest and of the smallest."""

    name = "trimmed_mean"

    share: Annotated[float, Field(gt=0, lt=0.5)] = 0.2
    """Share of the clients left out at either end, number by number, rounded down to whole clients."""

    def problem(self, clients: int) -> str:
        return "" if int(self.share * clients) else f"a share of {self.share:g} of {clients} clients leaves out nobody"


@dataclass(frozen=True, kw_only=True)
class Krum(Aggregation):
    """The update with the least sum of squared distances to its n - f - 2 nearest, f of n clients malicious."""

    name = "krum"

    malicious: Count = 1
    """Clients of a round that may lie."""

    @property
    def kept(self) -> int:
        return 1

    def problem(self, clients: int) -> str:
        return _too_few(clients, 2, self.malicious)


@dataclass(frozen=True, kw_only=True)
class MultiKrum(Krum):
    """The weighted mean of the updates with the least of Krum's sums."""

    name = "multi_krum"

    keep: Count = 2
    """Clients whose updates are kept and averaged."""

    @property
    def kept(self) -> int:
        return self.keep

    def problem(self, clients: int) -> str:
        honest = clients - self.malicious
        wide = f"keep is {self.keep}, and {clients} clients less {self.malicious} malicious are {honest}"
        return super().problem(clients) or ("" if self.keep <= honest else wide)


@dataclass(frozen=True, kw_only=True)
class Bulyan(Aggregation):
    """Krum's choice n - 2 f times, then of each number the mean of the n - 4 f nearest the median."""

    name = "bulyan"

    malicious: Count = 1
    """Clients of a round that may lie."""

    def problem(self, clients: int) -> str:
        return _too_few(clients, 4, self.malicious)


RULES: dict[str, type[Aggregation]] = {c.name: c for c in (Mean, Median, TrimmedMean, Krum, MultiKrum, Bulyan)}


def _too_few(clients: int, factor: int, malicious: int) -> str:
    needed = f"{malicious} malicious of {clients} clients is too many; it needs {factor} x {malicious} + 3 in a round"
    return "" if clients >= factor * malicious + 3 else needed
