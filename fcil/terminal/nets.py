"""Commands about trained nets and label-text embeddings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fcil.terminal.streams import say

RunDir = Annotated[Path, typer.Argument(help="Folder of the run, the one with config.yaml.")]
Task = Annotated[
    int | None, typer.Option("--task", min=1, help="Its net at the end of this task (default: of the run).")
]
Trust = Annotated[bool, typer.Option("--trust", help="Run the folder's own strategy.py and parts, trusted or not.")]


def embed(
    names: Annotated[Path, typer.Argument(help="A text file of class names.")],
    out: Annotated[Path, typer.Option("--out", help="The safetensors file to write.")] = Path("anchors.safetensors"),
    encoder: Annotated[
        str, typer.Option(help="A Hugging Face name or a local folder.")
    ] = "openai/clip-vit-base-patch32",
    template: Annotated[str, typer.Option(help="The sentence around a name.")] = "a photo of a {}",
) -> None:
    """Label-text embeddings for class names of your own, one name a line."""
    from fcil.anchors import AnchorSettings, embed, read_names
    from fcil.config import Where, parse

    settings = parse(AnchorSettings, {"encoder": encoder, "template": template}, Where("fcil embed"))
    about = embed(read_names(names), settings, out)
    say(f"{out}: {about['classes']} anchors of width {about['width']} from {about['encoder']}")


def evaluate(
    run_dir: RunDir,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Keys of data or resources to change, such as data.root=corrupted.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="A folder or zip of other images, in a folder for each class.")
    ] = None,
    task: Task = None,
    out: Annotated[
        str | None, typer.Option("--out", metavar="NAME", help="Write evaluations/NAME.csv in the run folder.")
    ] = None,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the net that a run has kept, on its own test samples or on others: all, by task, by class."""
    from fcil.console.tables import group_table
    from fcil.evaluation import evaluate

    found = evaluate(run_dir, *(overrides or []), data=data, task=task, out=out, trust=trust)
    if as_json:
        rows = [{**group._asdict(), "accuracy": group.accuracy} for group in found.groups]
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        Console().print(group_table(found.groups, found.left_out))
        if out is not None:
            say(run_dir / "evaluations" / f"{out}.csv")


def unlearn(
    run_dir: RunDir,
    client: Annotated[list[int], typer.Option("--client", help="Its number, from 0; again for more.")],
    tasks: Annotated[
        str | None,
        typer.Option(metavar="K,...", help="Only its samples of these tasks, such as 2,3.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the net (default: unlearned/client<k> of the run folder).")
    ] = None,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Take a client out of a finished run, as if it had never taken part: exact, for methods that add up sums.

    The client is asked for its sums again. The run itself stays as it is.
    """
    from fcil.console.tables import before_and_after_table
    from fcil.errors import ConfigError
    from fcil.evaluation import unlearn

    numbers = None if tasks is None else tasks.split(",")
    if numbers is not None and not all(number.strip().isdecimal() for number in numbers):
        raise ConfigError(f"tasks: {tasks!r} is not allowed; expected numbers of tasks, such as 2,3")
    chosen = None if numbers is None else [int(number) for number in numbers]
    found = unlearn(run_dir, client, chosen, out=out, trust=trust)
    if as_json:
        sys.stdout.write(json.dumps({**found.to_json(), "folder": str(found.folder)}, indent=2) + "\n")
        return
    who = ("client " if len(client) == 1 else "clients ") + ", ".join(map(str, found.clients))
    shown = [tuple(row.values()) for row in found.rows() if row["group"] != "class" or row["name"] in found.gone]
    Console().print(before_and_after_table(shown, f"{found.samples:,} training samples of {who} taken out"))
    if found.gone:
        say(f"no sample is left of {', '.join(found.gone)}, so nothing is taken for it")
    say(found.folder)


def export(
    run_dir: RunDir,
    to: Annotated[
        str, typer.Option("--to", help="state_dict (safetensors), torchscript or onnx; ro-crate (a zip of the run).")
    ],
    task: Task = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The file (default: in exports/ of the run folder).")
    ] = None,
    trust: Trust = False,
) -> None:
    """Write the net that a run has kept for other programs, or the whole run as an RO-Crate.

    A net takes normalised samples and returns logits.
    """
    from fcil.evaluation import export

    say(export(run_dir, to, task=task, out=out, trust=trust))
