"""A comparison as Markdown, LaTeX and CSV, and as JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fcil.compare.comparison import METRICS, Comparison, Entry, Metric, Split
from fcil.compare.statistics import Spread
from fcil.store.files import write_text
from fcil.tables import NONE, duration, size

COLUMNS = ("final_accuracy", "average_incremental_accuracy", "forgetting", "bytes_up", "bytes_down", "seconds")
"""Of the tables for readers; the CSV has every metric."""
LATEX = ("final_accuracy", "average_incremental_accuracy", "forgetting")
CAPTION = (
    "Percent and points, mean ± sample standard deviation over n seeds, and in brackets the 95 % bootstrap interval of "
    "the mean; forgetting is Chaudhry's; bytes and time are means of a run."
)


def write(comparison: Comparison, folder: Path) -> list[Path]:
    """Write `comparison.md`, `.tex` and `.csv`, and `tests.csv` with every pair of strategies."""
    texts: dict[str, str] = {
        "comparison.md": markdown(comparison),
        "comparison.tex": latex(comparison),
        "comparison.csv": long_csv(comparison),
        "tests.csv": tests_csv(comparison),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def cell(spread: Spread | None, metric: Metric, *, bounds: bool = False) -> str:
    """`51.5 ± 10.4 [43.0, 59.1]`, or what a run costs in words; a dash where there is nothing."""
    if spread is None:
        return NONE
    if metric.unit == "bytes":
        return size(float(f"{spread.mean:.2g}"))  # two digits say enough, and fit a terminal
    if metric.unit == "seconds":
        return f"{spread.mean:.0f} s" if spread.mean < 1000 else duration(spread.mean)
    text = f"{spread.mean:.1f}"
    if spread.std is not None:
        text += f" ± {spread.std:.1f}"
    if bounds and spread.low is not None:
        text += f" [{spread.low:.1f}, {spread.high:.1f}]"
    return text


# Markdown -----------------------------------------------------------------------------------------


def markdown(comparison: Comparison) -> str:
    """A table for each split; the best in bold where its interval lets no other come near."""
    blocks = [_markdown_table(split) for split in comparison.splits]
    if ranks := comparison.ranks:
        order = sorted(ranks.ranks.items(), key=lambda one: one[1])
        listed = ", ".join(f"{_md(name)} {rank:.2f}" for name, rank in order)
        blocks.append(f"Mean ranks over {ranks.blocks} splits (Friedman, p = {ranks.p:.2g}): {listed}.")
    blocks += [f"- {_md(line)}" for line in comparison.warnings]
    return "\n\n".join([*blocks, CAPTION]) + "\n"


def _markdown_table(split: Split) -> str:
    titles = ["strategy", "keeps", "n", *(METRICS[name].title for name in COLUMNS)]
    lines = [f"| {' | '.join(titles)} |", f"|---|---|{'--:|' * (len(titles) - 2)}"]
    best = {name: split.best(name) for name in COLUMNS[:3]}
    for entry in split.entries:
        cells = [_md(entry.label) + (" †" if entry.differs else ""), entry.keeps, str(len(entry.group.runs))]
        for name in COLUMNS:
            text = cell(entry.spreads[name], METRICS[name], bounds=name == COLUMNS[0])
            cells.append(f"**{text}**" if best.get(name) is entry else text)
        lines.append(f"| {' | '.join(cells)} |")
    return f"### {_md(split.label)}\n\n" + "\n".join(lines)


def _md(text: str) -> str:
    """Text that Markdown prints as it stands."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in text)


# LaTeX --------------------------------------------------------------------------------------------


def latex(comparison: Comparison) -> str:
    """One `tabular` of booktabs, strategies down and splits across."""
    splits = comparison.splits
    labels = list(dict.fromkeys(entry.label for split in splits for entry in split.entries))
    best = {(s, name): split.best(name) for s, split in enumerate(splits) for name in LATEX}
    lines = [f"\\begin{{tabular}}{{l{'rrr' * len(splits)}}}", "\\toprule"]
    heads = [f"\\multicolumn{{{len(LATEX)}}}{{c}}{{{_tex(split.label)}}}" for split in splits]
    lines.append(" & ".join(["", *heads]) + " \\\\")
    spans = (f"\\cmidrule(lr){{{2 + 3 * s}-{4 + 3 * s}}}" for s in range(len(splits)))
    lines += ["".join(spans), " & ".join(["strategy", *("final", "average", "forgetting") * len(splits)]) + " \\\\"]
    lines.append("\\midrule")
    for label in labels:
        cells = [_tex(label)]
        for s, split in enumerate(splits):
            entry = next((e for e in split.entries if e.label == label), None)
            cells += [_tex_cell(entry, name, entry is not None and best[s, name] is entry) for name in LATEX]
        lines.append(" & ".join(cells) + " \\\\")
    return "\n".join([f"% {CAPTION}", *lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def _tex_cell(entry: Entry | None, name: str, best: bool) -> str:
    spread = None if entry is None else entry.spreads[name]
    if spread is None:
        return "--"
    number = f"{spread.mean:.1f}" + ("" if spread.std is None else f" \\pm {spread.std:.1f}")
    mark = "^\\dagger" if entry is not None and entry.differs else ""
    return f"$\\mathbf{{{number}}}{mark}$" if best else f"${number}{mark}$"


_TEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in text)


# CSV and JSON -------------------------------------------------------------------------------------


def long_csv(comparison: Comparison) -> str:
    """A line for each split, strategy and metric."""
    return _csv(rows(comparison), ["split", "strategy", "keeps", "differs", "metric", "unit", *Spread.__annotations__])


def tests_csv(comparison: Comparison) -> str:
    """A line for each two strategies of a split: the paired test on their final accuracy."""
    found = [{"split": split.label, **vars(pair)} for split in comparison.splits for pair in split.tests]
    return _csv(found, ["split", "a", "b", "n", "difference", "p", "adjusted"])


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """The long table as plain values."""
    found = []
    for split in comparison.splits:
        for entry in split.entries:
            about = {
                "split": split.label,
                "strategy": entry.label,
                "keeps": entry.keeps,
                "differs": "; ".join(entry.differs),
            }
            for name, metric in METRICS.items():
                if spread := entry.spreads[name]:
                    found.append({**about, "metric": name, "unit": metric.unit, **vars(spread)})
    return found


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Everything that is printed and written."""
    tests = [{"split": split.label, **vars(pair)} for split in comparison.splits for pair in split.tests]
    ranks = None if comparison.ranks is None else vars(comparison.ranks)
    return {"rows": rows(comparison), "tests": tests, "friedman": ranks, "warnings": comparison.warnings}


def _csv(lines: list[dict[str, Any]], columns: list[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    plain: Callable[[Any], Any] = lambda v: f"{v:.6g}" if isinstance(v, float) else v  # noqa: E731
    writer.writerows({k: plain(v) for k, v in line.items()} for line in lines)
    return text.getvalue()
