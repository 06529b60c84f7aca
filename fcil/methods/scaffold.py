"""Scaffold of a strategy or another part of one's own: a file that runs as it is, and a test of the contract."""

from __future__ import annotations

import keyword
from pathlib import Path

from fcil.errors import ConfigError, StoreError, nearest
from fcil.io.atomic import write_text
from fcil.methods.catalogue import rows
from fcil.methods.files import built_in_files
from fcil.methods.part_templates import DATASET, NET, PARTITION, SYNTHESIZER

STRATEGY = '''"""{title}: what it does about forgetting, in one line.

    task 1:  L = CE(z, y)
    task t:  L = CE(z, y) + keep KD(z_old, z_old^T)        T the last global net, KD without a factor of its temperature

Shapes: B batch, C classes seen, K of them old.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fcil import Batch, Client, Server, Strategy, Terms, Update, Weight
from fcil.losses import soft_cross_entropy


@dataclass(frozen=True, kw_only=True)
class {title}(Strategy):
    keep: Weight = 1.0
    """Weight of keeping what the last global net says about the old classes."""

    # What listings, tables and diagnostics tell about it; none of these four changes a run, and each may be left out.
    paper = 'Authors, "Title of the paper", venue and year, arXiv:0000.00000'
    uses = frozenset({{"teacher"}})
    loss_terms = ("ce", "kd")
    broadcasts = ("teacher",)
    # Where it fits tasks that are new domains of the same classes, too (`data.scenario: domains`), say so:
    # scenarios = frozenset({{"classes", "domains"}})

    def local_loss(self, client: Client, batch: Batch) -> Terms:
        logits, old = client.net(batch.x).logits, client.task.num_old  # (B, C)
        terms = {{"ce": F.cross_entropy(logits, batch.y)}}
        if not client.task.first:
            with torch.no_grad():
                teacher = client.frozen("teacher")(batch.x).logits  # (B, K)
            terms["kd"] = self.keep * soft_cross_entropy(logits[:, :old], teacher, 2.0)
        return terms

    def after_task(self, server: Server, updates: Iterable[Update]) -> None:
        if not server.task.last:
            server.shared["teacher"] = server.net.weights()
'''
TEST = '''"""{title} keeps the contract of a {kind}."""

from pathlib import Path

from fcil.check import check


def test_{name}_keeps_the_contract():
    report = check(Path(__file__).with_name("{name}.py"))
    assert report.passed, report
'''


TEMPLATES = {
    "strategy": STRATEGY,
    "net": NET,
    "dataset": DATASET,
    "synthesizer": SYNTHESIZER,
    "partition": PARTITION,
}
"""What is written for each kind."""
TRY = {
    "strategy": "strategy={}",
    "net": "net.name={}",
    "dataset": "data.dataset={}",
    "synthesizer": "'strategy={{target: {{synthesizer: {}}}}}'",
    "partition": "data.partition={}",
}
"""Override of an experiment that names a file of each kind."""
LISTED = {"strategy": "strategies", "net": "nets", "dataset": "datasets", "synthesizer": "synthesizers"}
"""What `fcil list` calls each kind."""


def begin(kind: str, name: str, out: Path) -> list[str]:
    """Write `NAME.py` and `test_NAME.py`.

    Returns:
        Lines that name the written files and the next steps.
    Raises:
        ConfigError: there is no such kind, or the name is invalid for it.
        StoreError: a file of this name exists, or the folder cannot be written; nothing was written.
    """
    if kind not in TEMPLATES:
        raise ConfigError(f'new: unknown kind "{kind}" (have: {", ".join(TEMPLATES)}).{nearest(kind, TEMPLATES)}')
    check_name(name, kind)
    path, test = out / f"{name}.py", out / f"test_{name}.py"
    for taken in (path, test):
        if taken.exists() or taken.is_symlink():
            raise StoreError(f"{taken} is there already; nothing was written")
    words = {"name": name, "title": title(name), "kind": kind}
    write_text(path, TEMPLATES[kind].format(**words))
    try:
        write_text(test, TEST.format(**words))
    except StoreError:
        path.unlink(missing_ok=True)
        raise
    shown = path if path.is_absolute() else Path(".", path)
    spelled = str(shown) if path.is_absolute() else f"./{shown}"
    return [
        f"{path} and {test} are written. Next:",
        f"  fcil check {spelled}",
        f"  fcil run experiments/quickstart.yaml {TRY[kind].format(spelled)}",
        f"  python -m pytest {test}",
    ]


def check_name(name: str, kind: str) -> None:
    """Check that a name can be that of a part of one's own.

    Raises:
        ConfigError: it is no Python name in small letters, or is taken.
    """
    if kind == "strategy" and name in built_in_files():
        raise ConfigError(f'new: "{name}" comes with the project; choose another name, or `fcil check {name}`')
    if kind in LISTED and kind != "strategy" and name in (next(iter(row.values())) for row in rows(LISTED[kind])):
        raise ConfigError(f'new: "{name}" comes with the project (fcil list {LISTED[kind]}); choose another name')
    plain = "".join(c if c.isalnum() else "_" for c in name.removesuffix(".py").lower()).strip("_")
    if (
        not (name.isascii() and name.isidentifier() and name == name.lower())
        or keyword.iskeyword(name)
        or name[0] == "_"
    ):
        guess = f' Did you mean "{plain}"?' if plain.isascii() and plain.isidentifier() and plain != name else ""
        raise ConfigError(f'new: "{name}" is no name for a {kind}; expected small letters, digits and _.{guess}')


def title(name: str) -> str:
    """Return `my_method` as the name of a class: `MyMethod`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))
