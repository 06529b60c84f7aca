"""Methods whose paper and released code differ: one switch for all of it, and a field for each difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from fcil.fidelity import Fidelity, resolve
from fcil.synthesis.common.base import Synthesizer


@dataclass(frozen=True, kw_only=True)
class WithFidelity(Synthesizer):
    """A method with two sides."""

    fidelity: Fidelity | None = None
    """Side taken where paper and code differ, in every field that is null; null: as the caller, or `paper`."""

    differences: ClassVar[Mapping[str, tuple[object, object]]] = {}
    """What a field that is null becomes: the paper's, or ours where the paper is silent; the released code's."""

    @property
    def settled(self) -> Self:
        """The same settings with every null that `fidelity` decides filled in."""
        return resolve(self, self.fidelity or "paper", self.differences)

    def with_fidelity(self, fidelity: Fidelity) -> Self:
        return self if self.fidelity else replace(self, fidelity=fidelity)
