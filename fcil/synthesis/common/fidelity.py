"""Methods whose paper and released code differ: one switch for all differences, and a field for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from fcil.fidelity import Fidelity, resolve
from fcil.synthesis.common.base import Synthesizer


@dataclass(frozen=True, kw_only=True)
class WithFidelity(Synthesizer):
    """A method with a paper side and a reference side."""

    fidelity: Fidelity | None = None
    """Side taken where paper and code differ, in every field that is null; null: the caller's side, or `paper`."""

    differences: ClassVar[Mapping[str, tuple[object, object]]] = {}
    """Value of a field that is null: the paper's, or ours where the paper is silent; the released code's."""

    @property
    def settled(self) -> Self:
        """Return the same settings with every null that `fidelity` decides filled in."""
        return resolve(self, self.fidelity or "paper", self.differences)

    def with_fidelity(self, fidelity: Fidelity) -> Self:
        return self if self.fidelity else replace(self, fidelity=fidelity)
