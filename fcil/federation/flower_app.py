"""Apps that Flower's own engines load: the ClientApp, and a ServerApp that plays an experiment on their grid.

    flwr run . -c 'experiment="experiments/flower.yaml" overrides="seeds=[0,1]" out="results"'

The loop, the clients and the weights are those of `fcil run`; only where clients run differs.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fcil.errors import ConfigError, FCILError, TrainingError, nearest
from fcil.federation.client import client_app
from fcil.federation.compat import RAISED, app_folder
from fcil.federation.engine import Engine
from fcil.federation.grids import reason

OpenEngine = Callable[..., Engine]
Play = Callable[[Path, list[str], Path, OpenEngine], None]
"""Plays an experiment file with overrides into a folder, on engines that the last argument opens."""
KEYS = ("experiment", "overrides", "out")
app = client_app()
"""ClientApp of this process, which Flower's engine starts for clients alone."""


class _Answering(ClientApp):
    """The ClientApp, which answers for itself when it fails.

    Flower's engines differ in what a client remembers that raised, and in how they word the error.
    """

    def __call__(self, message: Message, context: Context) -> Message:
        before = RecordDict(dict(context.state))
        try:
            return app(message=message, context=context)
        except Exception as error:
            context.state = before
            return Message(Error(code=RAISED, reason=reason(error)), reply_to=message)


client = _Answering()


def server_app(play: Play) -> ServerApp:
    """A ServerApp that reads from its run config what to play. Whatever goes wrong, it fails."""
    flower = ServerApp()

    @flower.main()
    def main(grid: Grid, context: Context) -> None:
        logging.getLogger("flwr").addFilter(in_one_line)
        order = {key: context.run_config.get(key, "") for key in KEYS}
        try:
            for key, value in order.items():
                if not isinstance(value, str):
                    raise ConfigError(f"run config: {key} is {value!r}; expected text")
            source = find_experiment(str(order["experiment"]), app_folder(grid.run))
            out = Path(str(order["out"]) or "results").absolute()
            play(source, split(str(order["overrides"])), out, partial(Engine, grid=grid))
        except KeyboardInterrupt:  # Flower takes a thread that ends this way for a success
            raise TrainingError("interrupted; the same command goes on from the last checkpoint") from None

    return flower


def split(overrides: str) -> list[str]:
    """`a=1 b="x y"` as a shell would read it.

    Raises:
        ConfigError: a quote is not closed.
    """
    try:
        return shlex.split(overrides)
    except ValueError as error:
        raise ConfigError(f"run config: overrides {overrides!r} cannot be split ({error})") from None


def find_experiment(name: str, app: Path | None) -> Path:
    """The experiment file of this name: absolute, or of the app that was submitted, or of where Flower was started.

    Raises:
        ConfigError: there is none.
    """
    if not name:
        raise ConfigError("run config: experiment is missing; expected the path of a YAML file")
    places = [place / name for place in (app, Path.cwd()) if place is not None]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        carried = [] if app is None else [str(path.relative_to(app)) for path in sorted(app.rglob("*.yaml"))]
        there = f" (the app carries {', '.join(carried)})" if carried else ""
        raise ConfigError(f'run config: no experiment "{name}"{there}.{nearest(name, carried)}')
    return found


def in_one_line(record: logging.LogRecord) -> bool:
    """Reduce a record of an error raised on purpose to its message: Flower logs that, and no traceback."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, FCILError):
        record.msg, record.args, record.exc_info = str(error), (), None
    return True
