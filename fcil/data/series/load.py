"""Sets of series by name: where they come from, and whether they are there."""

from __future__ import annotations

from fcil.data.catalog import DatasetInfo, archived_sets
from fcil.data.series import generated
from fcil.data.series.clean import Longer, Missing
from fcil.data.series.packages import find
from fcil.data.series.read import Parts, SeriesSplits, arranged, folder_files, folder_parts, named_parts
from fcil.errors import DataError


def load_series(info: DatasetInfo, root: str | None, missing: Missing, longer: Longer, each: bool) -> SeriesSplits:
    """Return a set of series as arrays; `missing`, `longer` and `each` as in `fcil.data.series.read.arranged`.

    Raises:
        DataError: files are missing or damaged; one line names the file and the remedy.
    """
    try:
        return arranged(_parts(info, root), missing=missing, longer=longer, each=each)
    except DataError as error:
        raise DataError(f"{info.name}: {error}") from None


def _parts(info: DatasetInfo, root: str | None) -> Parts:
    if info.name == generated.NAME:
        return generated.mnist1d()
    return named_parts(archived_sets(info.name), root) if archived_sets(info.name) else folder_parts(root or "")


def series_at_hand(info: DatasetInfo, root: str | None) -> None:
    """Check that the files of a set of series, or the package that makes it, are there; nothing is opened.

    Raises:
        DataError: they are not.
    """
    try:
        if info.name == generated.NAME:
            generated.check()
        elif not archived_sets(info.name):
            folder_files(root or "")
        for name in archived_sets(info.name):
            find(name, root)
    except DataError as error:
        raise DataError(f"{info.name}: {error}") from None
