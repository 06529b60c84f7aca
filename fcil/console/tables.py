"""Tables printed before and after a run: settings, data of each client, the accuracy matrix, metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rich import box
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from fcil import metrics

MEANING = {
    "final_accuracy": "all classes, at the end",
    "average_incremental_accuracy": "classes seen, mean over tasks",
    "old_accuracy": "all but the last task",
    "new_accuracy": "the last task",
    "plasticity": "a task when learnt, mean",
    "stability": "an earlier task at the end, mean",
    "bwt": "end less when learnt, mean",
    "chaudhry": "best before the end less end",
    "chaudhry_including_last": "best ever less end",
    "first": "when learnt less end",
    "first_over_T": "as first, over all tasks",
    "lander": "best task of a stage less end",
    "libcontinual": "as first, less one task",
}
"""Descriptions of every metric, in a few words; the formulas are in `fcil.metrics`."""
POINTS = ("bwt", *metrics.FORGETTING)
"""Metrics that are differences of accuracies: points, not percent."""
NONE = "\N{EN DASH}"
"""Sign for a value that is empty or unknown."""
UNDEFINED = "n/a"
"""Sign for a metric that so few tasks do not define."""
SPARKS = "▁▂▃▄▅▆▇█"
MOST_CLIENTS, MOST_COLUMNS = 12, 50


def percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """Bytes in words: `1.2 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def simple_table(title: str = "", caption: str = "") -> Table:
    """The look of every table."""
    return Table(
        title=title or None, caption=caption or None, box=box.SIMPLE_HEAD, header_style="bold", title_justify="left",
        caption_justify="left", title_style="bold", caption_style="dim", pad_edge=False,
    )  # fmt: skip


# Settings -----------------------------------------------------------------------------------------


def settings_tree(config: Mapping[str, Any]) -> Tree:
    """Every setting, defaults included: a branch for each section, its values beside each other."""
    plain = {k: v for k, v in config.items() if not isinstance(v, Mapping)}
    name = str(plain.pop("name", "experiment"))
    tree = Tree(Text.assemble((name, "bold"), "  ", _pairs(plain)), guide_style="dim")
    for key, value in config.items():
        if isinstance(value, Mapping):
            _branch(tree, str(key), value)
    return tree


def _branch(tree: Tree, key: str, value: Mapping[str, Any]) -> None:
    head = Text(key, style="bold")
    if len(value) == 1 and isinstance(next(iter(value.values())), Mapping):  # a choice: {name: {option: value}}
        (chosen, value), *_ = value.items()
        head.append_text(Text(f" {chosen}", style="bold blue"))
    plain = {k: v for k, v in value.items() if not _is_section(v)}
    branch = tree.add(Text.assemble(head, "  " if plain else "", _pairs(plain)))
    for inner, section in value.items():
        if _is_section(section):
            _branch(branch, str(inner), section)


def _is_section(value: Any) -> bool:
    """A mapping that needs lines of its own, unlike `{dirichlet: 0.5}`."""
    return isinstance(value, Mapping) and (len(value) > 1 or any(isinstance(v, Mapping) for v in value.values()))


def _pairs(values: Mapping[str, Any]) -> Text:
    text = Text(overflow="fold")
    for i, (key, value) in enumerate(values.items()):
        text.append(" · " if i else "", style="dim").append(f"{key} ", style="dim").append(_plain(value))
    return text


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return " ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        shown = ", ".join(_plain(v) for v in value[:8])
        return f"[{shown}, … {len(value)} in all]" if len(value) > 8 else f"[{shown}]"
    return str(value)


# Partition ----------------------------------------------------------------------------------------


def partition_table(counts: npt.ArrayLike, class_names: Sequence[str], domains: Sequence[str] = ()) -> Table:
    """Return the table of each client's data in each task.

    Args:
        counts: examples (tasks, clients, classes), classes in order of appearance.
        class_names: of all classes, in the same order.
        domains: name of each task, where tasks are domains.
    """
    table = simple_table(
        "Training examples", "by class: a bar for each class of the task, on one scale; a dot for none"
    )
    for name, justify in (("task", "right"), ("client", "right"), ("examples", "right"), ("classes", "right")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("by class", overflow="fold")
    for number, clients in enumerate(np.asarray(counts), start=1):
        held = np.flatnonzero(clients.sum(axis=0))
        mine = clients[:, held]
        names = Text(_names([class_names[int(c)] for c in held]), style="dim")
        label = Text(domains[number - 1] if number <= len(domains) else str(number))
        table.add_row(label, "all", f"{mine.sum():,}", str(len(held)), names, style="bold")
        shown = len(mine) if len(mine) <= MOST_CLIENTS else MOST_CLIENTS - 2
        for client, row in enumerate(mine[:shown]):
            table.add_row("", str(client), f"{row.sum():,}", str((row > 0).sum()), _sparks(row, mine.max(initial=0)))
        if shown < len(mine):
            rest = mine[shown:].sum(axis=1)
            table.add_row("", "…", f"{rest.min():,} to {rest.max():,}", "", f"{len(rest)} more clients")
        table.add_section()
    return table


def _names(names: Sequence[str]) -> str:
    text = ", ".join(names[:6])
    return f"{text}, …" if len(names) > 6 else text


def _sparks(row: npt.NDArray[np.int64], most: int) -> str:
    parts = np.array_split(row, min(len(row), MOST_COLUMNS)) if len(row) else []
    heights = [int(part.max()) for part in parts]
    return "".join(SPARKS[-(-8 * h // most) - 1] if h else "·" for h in heights)


# Results ------------------------------------------------------------------------------------------


def accuracy_table(rows: Sequence[Sequence[int]], domains: Sequence[str] = ()) -> Table:
    """The accuracy matrix in percent, and the accuracy over all that was seen; `domains` name the tasks, if such."""
    matrix, examples = metrics.accuracy_matrix(rows)
    seen = metrics.accuracy_after_each_task(matrix, examples)
    table = simple_table("Accuracy (%)", "rows: after learning a task; columns: on the test examples of a task")
    table.add_column("after", justify="right", style="bold")
    table.add_column("all seen", justify="right", style="bold")
    for task in range(len(matrix)):
        head = Text(domains[task] if len(domains) >= len(matrix) else str(task + 1))
        table.add_column(head, justify="right", no_wrap=not domains)
    for task, accuracies in enumerate(matrix):
        cells = ["" if np.isnan(a) else f"{100 * a:.1f}" for a in accuracies]
        table.add_row(str(task + 1), f"{100 * seen[task]:.1f}", *cells)
    return table


def group_table(groups: Sequence[tuple[str, str, int, int]], left_out: int = 0) -> Table:
    """Accuracy on groups of samples: kind of group, its name, examples, correct predictions.

    Args:
        left_out: samples that belong to no group, which the caption tells.
    """
    caption = f"left out: {left_out:,} samples of classes that the net has not learnt" if left_out else ""
    table = simple_table("Accuracy (%)", caption)
    for column in ("on", "accuracy", "correct", "examples"):
        table.add_column(column, justify="left" if column == "on" else "right")
    before = "all"
    for kind, name, examples, correct in groups:
        if kind != before:
            table.add_section()
        before = kind
        share = f"{100 * correct / examples:.1f}" if examples else NONE
        table.add_row(Text(f"{kind} {name}".strip()), share, f"{correct:,}", f"{examples:,}")
    return table


def before_and_after_table(groups: Sequence[tuple[str, str, int, int, int]], change: str) -> Table:
    """Accuracy on groups of samples, twice: kind of group, its name, examples, correct before and after.

    Args:
        change: what lies between the two, in a few words.
    """
    table = simple_table("Accuracy (%)", change)
    for column in ("on", "before", "after", "examples"):
        table.add_column(column, justify="left" if column == "on" else "right")
    last = "all"
    for kind, name, examples, before, after in groups:
        if kind != last:
            table.add_section()
        last = kind
        shares = (f"{100 * correct / examples:.1f}" if examples else NONE for correct in (before, after))
        table.add_row(Text(f"{kind} {name}".strip()), *shares, f"{examples:,}")
    return table


def metrics_table(summary: Mapping[str, Any]) -> Table:
    """Every metric of a finished run by name, and what the run cost."""
    table = simple_table("Metrics")
    for name in ("metric", "value", "meaning"):
        table.add_column(name, justify="right" if name == "value" else "left", style="dim" if name == "meaning" else "")
    for key, meaning in MEANING.items():
        forgetting = key in metrics.FORGETTING
        values = summary.get("forgetting") or {} if forgetting else summary
        if key not in values:
            continue
        value = values[key]
        points = UNDEFINED if value is None else f"{100 * value:.1f} pts"
        name = f"forgetting {key}" if forgetting else key.replace("_", " ")
        table.add_row(name, points if value is None or key in POINTS else percent(value), meaning)
    costs: dict[str, Callable[[Any], str]] = {
        "seconds": duration,
        "bytes_up": size,
        "bytes_down": size,
        "peak_memory_bytes": size,
        "failures": str,
    }
    table.add_section()
    for key, words in costs.items():
        if summary.get(key):
            name = "time" if key == "seconds" else key.removesuffix("_bytes").replace("_", " ")
            table.add_row(name, words(summary[key]), "")
    return table


def failures_line(summary: Mapping[str, Any]) -> str:
    """Return the failures of a run, by kind and by client; empty if there were none."""
    if not summary.get("failures"):
        return ""
    kinds, clients = (summary.get(key) or {} for key in ("failures_by_kind", "failures_by_client"))
    by_kind = "; ".join(f"{kind}: {count}" for kind, count in kinds.items())
    by_client = ", ".join(f"{client} ({count})" for client, count in clients.items())
    of_clients = f", of clients {by_client}" if by_client else ""
    return f"failures: {summary['failures']} ({by_kind}){of_clients}; each is in rounds.jsonl"


def listing_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows with the same keys, a column for each."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if v is None else str(v)) for v in row.values()))  # [wandb] is no markup
    return table
