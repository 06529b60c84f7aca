"""Layout of domains: a folder for each, with the same class folders inside.

<domain>/<class>/...                                  with data.test_share
train/<domain>/<class>/..., test/<domain>/<class>/... without; or val/ in place of test/
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fcil.data.domains.samples import SampleDomains
from fcil.data.files.archives import Archive
from fcil.data.files.layouts import MAX_CHARACTERS, Listing, drawn, is_image, listing_of
from fcil.errors import DataError, nearest, printable

Found = dict[str, dict[str, list[str]]]
"""Image files by domain and class folder."""


def natural_key(name: str) -> list[tuple[int, str]]:
    """Return a sort key by which `s2` comes before `s10`."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), part) if number % 2 else (-1, part) for number, part in enumerate(parts)]


@dataclass(frozen=True)
class DomainFolders:
    """The layout of domains in folders.

    Each class of each domain is split by itself, by the rule of an image folder without a test split.
    """

    names: tuple[str, ...] | None = None
    """Domains that are read; None: all."""
    share: float | None = None
    """Share of the images that tests; None: there is a test split."""
    seed: int = 0

    def __call__(self, archive: Archive) -> Listing:
        """Find domains, classes and images.

        Raises:
            DataError: a domain is missing, or there is none, or one lacks an image, or a class has a single image.
        """
        train, test = self._splits(archive)
        return listing_of(archive, _joined(train, test), _joined(test, train))

    def table(self, archive: Archive, listing: Listing) -> SampleDomains:
        """Return the domains that are read, as they were named, else in natural order, and that of each image."""
        train, test = self._splits(archive)
        names = self.names or tuple(sorted(train, key=natural_key))
        number = {
            file: place
            for place, name in enumerate(names)
            for part in (train, test)
            for files in part.get(name, {}).values()
            for file in files
        }
        of_train, of_test = (
            np.array([number[file] for file in part.names], dtype=np.int64) for part in (listing.train, listing.test)
        )
        return SampleDomains(names, of_train, of_test)

    def _splits(self, archive: Archive) -> tuple[Found, Found]:
        """Return training and test images."""
        splits = {name.split("/", 1)[0] for name in archive.names if name.count("/") >= 3 and is_image(name)}
        there = [split for split in ("test", "val") if split in splits]
        if self.share is None:
            if "train" not in splits or not there:
                missing = "train" if "train" not in splits else "test"
                raise DataError(
                    f"{archive}: no images under {missing}/<domain>/<class>/ (found: "
                    f"{', '.join(archive.tops[:5]) or 'nothing'}); data.test_share: 0.2 takes a share of "
                    "<domain>/<class>/ for tests"
                )
            return self._chosen(archive, "train/"), self._chosen(archive, f"{there[0]}/")
        if "train" in splits and there:
            raise DataError(f"{archive}: has a test split, {there[0]}/; leave data.test_share out")
        train: Found = {}
        test: Found = {}
        top = "train/" if "train" in splits else ""
        for domain, classes in self._chosen(archive, top).items():
            train[domain], test[domain] = {}, {}
            for folder, names in classes.items():
                if len(names) < 2:
                    raise DataError(
                        f'{archive}: class "{folder}" of domain "{domain}" has a single image; none can be taken for '
                        "tests"
                    )
                train[domain][folder], test[domain][folder] = drawn(names, self.share, self.seed, top)
        return train, test

    def _chosen(self, archive: Archive, top: str) -> Found:
        """Return the images below `top` of the domains that are read."""
        found = _by_domain(archive, top)
        for name in found:
            if not name.strip() or not name.isprintable() or len(name) > MAX_CHARACTERS:
                raise DataError(
                    f'{archive}: domain folder "{name}": its name must be printable and have at most {MAX_CHARACTERS} '
                    "characters"
                )
        for name in self.names or ():
            if name in found:
                continue
            if name in archive.tops or any(f"{top}{name}" == e or e.startswith(f"{top}{name}/") for e in archive.empty):
                raise DataError(f'{archive}: domain "{printable(name)}" has no images in class folders')
            known = ", ".join(sorted(found, key=natural_key)[:8]) + ", ..." * (len(found) > 8)
            raise DataError(
                f'{archive}: no domain "{printable(name)}" (there are {printable(known)}).{nearest(name, found)}'
            )
        return {name: found[name] for name in self.names or found}


def _by_domain(archive: Archive, top: str) -> Found:
    """Return the images below `top`, by domain and class folder; a folder without images is no domain."""
    found: Found = {}
    for name in archive.names:
        if not name.startswith(top) or not is_image(name):
            continue
        parts = name.removeprefix(top).split("/")
        if len(parts) < 3:
            raise DataError(
                f"{archive}: {name} lies in no class folder of a domain; expected {top}<domain>/<class>/<image>, and "
                "more than one domain"
            )
        found.setdefault(parts[0], {}).setdefault(parts[1], []).append(name)
    if not found:
        tops = ", ".join(archive.tops[:5]) or "nothing"
        raise DataError(f"{archive}: no images under {top}<domain>/<class>/ (found: {tops})")
    return found


def _joined(found: Found, other: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, list[str]]:
    """Return the images of all domains by class folder, with an entry for each class that either part has."""
    classes = {folder for part in (found, other) for domain in part.values() for folder in domain}
    return {c: [name for domain in found.values() for name in domain.get(c, ())] for c in classes}
