"""Which domain each sample of a data set is of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcil.errors import ConfigError, printable


class SampleDomains(NamedTuple):
    """The domains of a data set, and that of each sample by number, counted from 0."""

    names: tuple[str, ...]
    """Names, by number."""
    train: NDArray[np.int64]
    """Of the training samples, (N,)."""
    test: NDArray[np.int64]
    """Of the test samples, (N,)."""

    def check(
        self, train: NDArray[np.int64], test: NDArray[np.int64], classes: Sequence[int], names: Sequence[str]
    ) -> None:
        """Check that every domain has training and test samples of every class.

        Args:
            train: class numbers of the training samples, (N,); `test` those of the test samples.
            classes: the class numbers that are used.
            names: of all classes, by number.
        Raises:
            ConfigError: a domain lacks a class.
        """
        for domain, name in enumerate(self.names):
            for part, labels, of in (("training", train, self.train), ("test", test, self.test)):
                lacking = sorted(set(classes) - set(np.unique(labels[of == domain]).tolist()))
                if lacking:
                    there = next((d for d in range(len(self.names)) if lacking[0] in labels[of == d]), domain)
                    other = f', which domain "{printable(self.names[there])}" has' if there != domain else ""
                    more = f", nor of {len(lacking) - 1} more classes" if len(lacking) > 1 else ""
                    raise ConfigError(
                        f'domain "{printable(name)}" has no {part} images of class "{printable(names[lacking[0]])}"'
                        f"{other}{more}; every domain needs every class: name those of all domains in classes"
                    )


def grouped(labels: Tensor, domains: NDArray[np.int64], classes: int) -> Tensor:
    """Return a number for each pair of domain and class, so that draws are made in each of them: (N,)."""
    return torch.from_numpy(domains) * classes + labels
