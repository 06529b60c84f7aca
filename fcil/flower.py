"""The same experiments under Flower's own engines: its simulation, and a real deployment on this machine.

    python -m fcil.flower simulate experiments/flower.yaml
    python -m fcil.flower deploy experiments/flower.yaml federation.rounds=2 --tls

Both start a SuperLink of their own, give it the experiment, show what it tells, end every process they
started and say by their exit code how it went. `server` is what Flower loads, from here or by `flwr run .`.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from fcil.cli import Experiment, Out, Overrides, main
from fcil.config import Where
from fcil.errors import ConfigError, TrainingError
from fcil.federation.context import Datasets
from fcil.federation.deploy.credentials import make_credentials
from fcil.federation.deploy.processes import Processes
from fcil.federation.deploy.superlink import SuperLink, environment, free_ports
from fcil.federation.flower_app import OpenEngine, server_app
from fcil.federation.plan import Plan
from fcil.federation.runtime.interrupts import Interrupts
from fcil.federation.settings import Resources
from fcil.runs.continuation import check_begun, finished_line
from fcil.runs.plans import read
from fcil.runs.play import execute
from fcil.runs.preflight import preflight
from fcil.store import RunFolder, check_writable
from fcil.terminal.help import Verbs, verb

cli = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Experiments under Flower's own engines.",
)


def _play(source: Path, overrides: list[str], out: Path, open_engine: OpenEngine) -> None:
    """Play the experiment in the ServerApp: what `fcil run` does, on clients that are elsewhere."""
    console = Console(file=sys.stdout, force_terminal=False)  # Flower keeps what is written, line by line
    execute(_plans(source, overrides), out, console, Where(str(source)), open_engine)


server = server_app(_play)


def _plans(source: Path, overrides: list[str]) -> list[Plan]:
    plans = [plan for experiment in read(source, overrides) for plan in experiment.plans()]
    return list({plan.folder: plan for plan in plans}.values())


@verb(cli)
def simulate(experiment: Experiment, overrides: Overrides = None, out: Out = Path("results")) -> None:
    """Play an experiment in Flower's simulation: its own Ray workers, in a run of its own."""
    _launch(experiment, overrides or [], out)


@verb(cli)
def deploy(
    experiment: Experiment,
    overrides: Overrides = None,
    out: Out = Path("results"),
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt, and admit no node whose key is not known.")] = False,
) -> None:
    """Play an experiment on a SuperLink and a SuperNode for each client, all on this machine."""
    _launch(experiment, overrides or [], out, nodes=True, tls=tls)


def _launch(source: Path, overrides: list[str], out: Path, *, nodes: bool = False, tls: bool = False) -> None:
    """Check all that can be checked, play what is not finished, and see that it is.

    Raises:
        UserError: something in the file, the data or the output folder is wrong; nothing was started.
        TrainingError: the run failed.
    """
    console, plans = Console(), _plans(source, overrides)
    check_writable(out)
    unfinished = [plan for plan in plans if not RunFolder(out / plan.folder).finished]
    if not unfinished:
        execute(plans, out, console, Where(str(source)))  # which says so, and draws what is missing
        return
    for plan in plans:
        if plan not in unfinished:
            console.print(finished_line(out / plan.folder, plan), markup=False, soft_wrap=True)
    with Interrupts() as interrupts:
        datasets = Datasets()
        preflight(unfinished, datasets, console, Where(str(source)))
        check_begun(unfinished, datasets, out)
        datasets.forget()  # of the other processes each loads its own
        config = {"experiment": str(source.absolute()), "overrides": shlex.join(overrides), "out": str(out.absolute())}
        _check_text(config)
        _run(unfinished, config, console, nodes=nodes, tls=tls)
        interrupts.check()
    left = [str(out / plan.folder) for plan in unfinished if not RunFolder(out / plan.folder).finished]
    if left:
        raise TrainingError(f"Flower calls the run completed, but {left[0]} is not finished")


def _run(plans: list[Plan], config: dict[str, str], console: Console, *, nodes: bool, tls: bool) -> None:
    clients, resources = max(plan.federation.clients for plan in plans), plans[0].resources
    seen = environment(resources.ray_address) | {"COLUMNS": str(console.width)}
    with TemporaryDirectory(prefix="fcil-") as folder, Processes(Path(folder), seen) as processes:
        port, *ports = free_ports(1 + clients)
        link = SuperLink(processes, port, make_credentials(Path(folder)) if tls else None)
        link.start(simulation=not nodes)
        for client in range(clients if nodes else 0):
            link.start_node(client, clients, ports[client])
        kind = f"{clients} SuperNodes{', TLS and known keys' if tls else ''}" if nodes else f"{clients} simulated nodes"
        console.print(
            f"SuperLink at {link.address}, {kind}; they need a while to start", highlight=False, soft_wrap=True
        )
        run = link.submit(config, None if nodes else _simulation(clients, resources))
        link.follow(run, lambda line: console.print(Text.from_ansi(line), soft_wrap=True))


def _simulation(clients: int, resources: Resources) -> dict[str, int | float]:
    """The settings of a simulated federation."""
    cpus = min(resources.threads, os.cpu_count() or 1)
    settings: dict[str, int | float] = {"num-supernodes": clients, "client-resources-num-cpus": cpus}
    settings["client-resources-num-gpus"] = (
        float(resources.client_gpus) if resources.torch_device().type == "cuda" else 0.0
    )
    if resources.workers is not None and resources.ray_address is None:
        settings["init-args-num-cpus"] = cpus * resources.workers
    return settings


def _check_text(config: dict[str, str]) -> None:
    """Flower's configuration is UTF-8, and the name of a file need not be.

    Raises:
        ConfigError: it is not.
    """
    for key, value in config.items():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{key} {value!r} is not UTF-8, which Flower needs") from None


if __name__ == "__main__":
    main(cli)
