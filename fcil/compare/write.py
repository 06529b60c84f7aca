"""A comparison as Markdown, LaTeX and CSV, and as JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fcil.compare.comparison import METRICS, STUDENTS, Comparison, Entry, Metric, Split
from fcil.compare.statistics import Spread
from fcil.console.tables import NONE, UNDEFINED, duration, size
from fcil.errors import ConfigError, nearest, printable
from fcil.io.atomic import write_text

COLUMNS = ("final_accuracy", "average_incremental_accuracy", "forgetting", "bytes_up", "bytes_down", "seconds")
"""Columns of the tables for readers; the CSV has every metric."""
LATEX = {"final_accuracy": "final", "average_incremental_accuracy": "average", "forgetting": "forgetting"}
LATEX_STUDENTS = {"final_accuracy": "student", "teacher_accuracy": "teacher", "agreement": "agreement"}
"""Columns and their titles."""
STUDENT_COLUMNS = ("final_accuracy", "teacher_accuracy", "agreement", "bns", "diversity", "samples", "seconds")
"""Columns of a table of students."""
STUDENT_TITLES = {"final_accuracy": "student"}
DETAILS = (
    "forgetting",
    *(name for name in METRICS if name.startswith("forgetting_")),
    "bwt",
    "plasticity",
    "stability",
)
"""Columns of the second table: every definition of forgetting, and other metrics of an accuracy matrix."""
WORDS = ("track", "keeps", "unlike the paper")
"""Columns of a table that hold no numbers."""
MARKS = {
    "†": ("\\dagger", "differs", "run under other circumstances"),
    "‡": ("\\ddagger", "idle", "an ingredient did nothing"),
    "§": ("\\S", "mixed", "went on in another environment"),
}
"""Marks after a name: the mark in LaTeX, the field of an `Entry` that sets it, and its meaning."""
LATER = ("task_aware", "client_accuracy")
"""Beginnings of names of metrics that older runs lack."""
ACROSS = 3
"""Splits beside each other on a page."""
ALL = METRICS | STUDENTS
STUDENT_CAPTION = (
    "agreement: the teacher sees the label of a sample; bns: KL from its batch-norm statistics, less is nearer; "
    "diversity: 1 - cosine of two samples of a class"
)
CAPTION = (
    "Percent and points, mean ± sample standard deviation over n seeds, and in brackets the 95 % bootstrap interval of "
    "the mean; forgetting is Chaudhry's; bytes, time and peak memory (of a run's processes on one machine) are means "
    "of a run; † run under other circumstances than most of its table; ‡ an ingredient did nothing; § went on in "
    "another environment; n/a: so few tasks do not define it."
)


def check_columns(names: Sequence[str]) -> None:
    """Refuse a column that there is not.

    Raises:
        ConfigError: names it and those there are.
    """
    for name in names:
        if name not in METRICS:
            known = f"(have: {', '.join(METRICS)}).{nearest(name, METRICS)}"
            raise ConfigError(f'compare: unknown column "{printable(name)}" {known}')


def write(comparison: Comparison, folder: Path, more: Sequence[str] = ()) -> list[Path]:
    """Write `comparison.md`, `.tex` and `.csv`, `definitions.tex` with every forgetting, and `tests.csv` with every
    pair of strategies.

    Args:
        more: metrics that `comparison.md` shows beyond its usual ones.
    """
    texts: dict[str, str] = {
        "comparison.md": markdown(comparison, more),
        "comparison.tex": latex(comparison),
        "definitions.tex": latex_details(comparison),
        "comparison.csv": long_csv(comparison),
        "tests.csv": tests_csv(comparison),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def cell(spread: Spread | None, metric: Metric, *, bounds: bool = False) -> str:
    """`51.5 ± 10.4 [43.0, 59.1]`, or what a run costs in words; `n/a` where so few tasks define nothing, and a dash
    where a number was not recorded.
    """
    if spread is None:
        defined = metric.unit not in ("percent", "points") or metric.name.startswith(LATER)
        return NONE if defined else UNDEFINED
    if metric.unit == "bytes":
        return size(float(f"{spread.mean:.2g}"))  # two digits say enough, and fit a terminal
    if metric.unit == "seconds":
        return f"{spread.mean:.0f} s" if spread.mean < 1000 else duration(spread.mean)
    plain = metric.unit == "number"
    text = f"{spread.mean:.3g}" if plain else f"{spread.mean:.1f}"
    if spread.std is not None and (spread.std or not plain):
        text += f" ± {spread.std:.2g}" if plain else f" ± {spread.std:.1f}"
    if bounds and spread.low is not None:
        text += f" [{spread.low:.1f}, {spread.high:.1f}]"
    return text


# Markdown -----------------------------------------------------------------------------------------


def markdown(comparison: Comparison, more: Sequence[str] = ()) -> str:
    """A table for each split; the best in bold where its interval lets no other come near.

    Args:
        more: metrics shown beyond the usual ones.
    """
    blocks = [_markdown_table(split, more, tracked=_tracked(comparison)) for split in comparison.splits]
    if ranks := comparison.ranks:
        order = sorted(ranks.ranks.items(), key=lambda one: one[1])
        listed = ", ".join(f"{_md(name)} {rank:.2f}" for name, rank in order)
        blocks.append(f"Mean ranks over {ranks.blocks} splits (Friedman, p = {ranks.p:.2g}): {listed}.")
    blocks += [f"- {_md(line)}" for line in (*comparison.warnings, *comparison.hints)]
    return "\n\n".join([*blocks, CAPTION]) + "\n"


def _tracked(comparison: Comparison) -> bool:
    """Return whether tables say which track a run is of: where any begins from weights that others have trained."""
    return any(track != "scratch" for track in comparison.tracks)


def _markdown_table(split: Split, more: Sequence[str], *, tracked: bool = False) -> str:
    usual = (*(STUDENT_COLUMNS if split.students else COLUMNS), "peak_memory_bytes")
    shown = usual if split.students else tuple(dict.fromkeys((*usual, *more)))
    best = {name: split.best(name) for name in (COLUMNS[:1] if split.students else COLUMNS[:3])}
    lines = []
    for entry in split.entries:
        cells = [*([entry.track] * tracked), entry.keeps, str(len(entry.group.runs))]
        for name in shown:
            text = cell(entry.spreads[name], ALL[name], bounds=name == COLUMNS[0])
            cells.append(f"**{text}**" if best.get(name) is entry else text)
        lines.append(cells)
    titles = {name: ALL[name].title for name in shown} | (STUDENT_TITLES if split.students else {})
    main = _md_table(split, [*(["track"] * tracked), "keeps", "n", *titles.values()], lines)
    if split.students:  # of one task, in which nothing is forgotten
        return "\n\n".join([f"### {_md(split.label)}", main, *_md_tests(split), STUDENT_CAPTION])
    found = [
        [*(cell(entry.spreads[name], METRICS[name]) for name in DETAILS), _unlike(entry, NONE, _md)]
        for entry in split.entries
    ]
    second = _md_table(split, [*(_definition(name) for name in DETAILS), "unlike the paper"], found)
    return "\n\n".join([f"### {_md(split.label)}", main, *_md_tests(split), second])


def marks(entry: Entry) -> str:
    """Return the marks after a name: run otherwise, with an ingredient that did nothing, in several environments."""
    return "".join(f" {mark}" for mark, (_, key, _) in MARKS.items() if getattr(entry, key))


def meanings(entries: Sequence[Entry], tex: bool = False) -> list[str]:
    """Return the meanings of the marks after names of these entries: `† run under other circumstances`."""
    marked = {mark: one for mark, one in MARKS.items() if any(getattr(entry, one[1]) for entry in entries)}
    return [f"{f'$^{sign}$' if tex else mark} {said}" for mark, (sign, _, said) in marked.items()]


def _unlike(entry: Entry, unknown: str, write: Callable[[str], str] = str) -> str:
    """Return the differences between a run and its paper's protocol, for a cell."""
    found = entry.unlike_paper
    return unknown if found is None else write("; ".join(map(printable, found)))


def _md_table(split: Split, titles: list[str], lines: list[list[str]]) -> str:
    """A line for each strategy; numbers stand at the right."""
    names = [_md(entry.label) + marks(entry) for entry in split.entries]
    rule = "".join("---|" if title in WORDS else "--:|" for title in titles)
    rows = [f"| {' | '.join([name, *cells])} |" for name, cells in zip(names, lines, strict=True)]
    return "\n".join([f"| {' | '.join(['strategy', *titles])} |", f"|---|{rule}", *rows])


def _definition(name: str) -> str:
    """`forgetting (first)`, with Chaudhry's named too."""
    return "forgetting (chaudhry)" if name == "forgetting" else METRICS[name].title


def _md_tests(split: Split) -> list[str]:
    """Return the differences of the others from the first, in a line; none where no two share seeds."""
    first, found = split.against_first()
    told = [f"{_md(p.b)} {p.difference:+.1f}, p = {p.adjusted:.2g} (n = {p.n})" for p in found]
    about = "final accuracy less that of the others, Wilcoxon's signed-rank test over common seeds, p after Holm"
    return [f"{_md(first)} ({about}): {'; '.join(told)}."] if told else []


def _md(text: str) -> str:
    """Text that Markdown prints as it stands."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in text)


# LaTeX --------------------------------------------------------------------------------------------


def latex(comparison: Comparison) -> str:
    """`tabular`s of booktabs, strategies down and up to three splits across."""
    parts = []
    for students in (False, True):
        splits = [split for split in comparison.splits if split.students is students]
        parts += [_latex_splits(splits[i : i + ACROSS], students) for i in range(0, len(splits), ACROSS)]
    return "\n".join([_ABOUT, *parts])


def _latex_splits(splits: Sequence[Split], students: bool) -> str:
    columns = LATEX_STUDENTS if students else LATEX
    labels = list(dict.fromkeys(entry.label for split in splits for entry in split.entries))
    best = {(s, name): split.best(name) for s, split in enumerate(splits) for name in columns if name in METRICS}
    heads = [f"\\multicolumn{{{len(columns)}}}{{c}}{{{_tex(split.label)}}}" for split in splits]
    spans = (f"\\cmidrule(lr){{{2 + 3 * s}-{4 + 3 * s}}}" for s in range(len(splits)))
    lines = [" & ".join(["", *heads]) + " \\\\", "".join(spans)]
    lines += [" & ".join(["strategy", *list(columns.values()) * len(splits)]) + " \\\\", "\\midrule"]
    for label in labels:
        cells = [_tex(label)]
        for s, split in enumerate(splits):
            entry = next((e for e in split.entries if e.label == label), None)
            cells += [_tex_cell(entry, name, entry is not None and best.get((s, name)) is entry) for name in columns]
        lines.append(" & ".join(cells) + " \\\\")
    return _tabular(len(columns) * len(splits), lines, splits)


def latex_details(comparison: Comparison) -> str:
    """A `tabular` for each split: every definition of forgetting by name, backward transfer, plasticity, stability."""
    parts = []
    for split in (split for split in comparison.splits if not split.students):
        titles = [_definition(name).removeprefix("forgetting (").removesuffix(")") for name in DETAILS]
        spans = f"& \\multicolumn{{{len(DETAILS) - 3}}}{{c}}{{forgetting}} \\\\ \\cmidrule(lr){{2-{len(DETAILS) - 2}}}"
        lines = [spans, " & ".join(["strategy", *map(_tex, titles)]) + " \\\\", "\\midrule"]
        lines += [
            " & ".join([_tex(entry.label), *(_tex_cell(entry, name, False) for name in DETAILS)]) + " \\\\"
            for entry in split.entries
        ]
        parts.append(f"% {_tex(split.label)}\n{_tabular(len(DETAILS), lines, [split])}")
    return "\n".join([_ABOUT, *parts])


_ABOUT = f"% Needs \\usepackage{{booktabs}}. {CAPTION}"


def _tabular(numbers: int, lines: list[str], splits: Sequence[Split]) -> str:
    """Lines between rules, with a note on what was run otherwise."""
    entries = [entry for split in splits for entry in split.entries]
    notes = meanings(entries, tex=True)
    note = f"\\multicolumn{{{numbers + 1}}}{{l}}{{\\footnotesize {'; '.join(notes)}}} \\\\"
    top = [f"\\begin{{tabular}}{{l{'r' * numbers}}}", "\\toprule"]
    return "\n".join([*top, *lines, "\\bottomrule", *([note] * bool(notes)), "\\end{tabular}"]) + "\n"


def _tex_cell(entry: Entry | None, name: str, best: bool) -> str:
    if entry is None:
        return "--"
    spread = entry.spreads[name]
    if spread is None:
        return UNDEFINED
    number = f"{spread.mean:.1f}" + ("" if spread.std is None else f" \\pm {spread.std:.1f}")
    signs = "".join(sign for sign, key, _ in MARKS.values() if getattr(entry, key))
    mark = f"^{{{signs}}}" if signs else ""
    return f"$\\mathbf{{{number}}}{mark}$" if best else f"${number}{mark}$"


_TEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "[": "{[}",  # at the beginning of a line it would belong to the end of the one before
    "*": "{*}",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in text)


# CSV and JSON -------------------------------------------------------------------------------------


def long_csv(comparison: Comparison) -> str:
    """A line for each split, strategy and metric; n is of how many seeds, and a field is empty that is not defined."""
    about = [
        "split",
        "strategy",
        *(["track"] * _tracked(comparison)),
        "keeps",
        "differs",
        "idle",
        "unlike_paper",
        "mixed",
        "metric",
        "unit",
    ]
    return _csv(rows(comparison), [*about, *Spread.__annotations__])


def tests_csv(comparison: Comparison) -> str:
    """A line for each two strategies of a split: the paired test on their final accuracy."""
    found = [{"split": split.label, **vars(pair)} for split in comparison.splits for pair in split.tests]
    return _csv(found, ["split", "a", "b", "n", "difference", "p", "adjusted"])


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """The long table as plain values; a number that is not defined is None."""
    found, tracked = [], _tracked(comparison)
    for split in comparison.splits:
        for entry in split.entries:
            about = {
                "split": split.label,
                "strategy": entry.label,
                **({"track": entry.track} if tracked else {}),
                "keeps": entry.keeps,
                "differs": "; ".join(entry.differs),
                "idle": "; ".join(entry.idle),
                "unlike_paper": _unlike(entry, "unknown"),
                "mixed": "; ".join(entry.mixed),
            }
            for name, metric in ALL.items():
                if name not in entry.spreads:
                    continue
                spread = entry.spreads[name]
                numbers = {**dict.fromkeys(Spread.__annotations__), "n": 0} if spread is None else vars(spread)
                found.append({**about, "metric": name, "unit": metric.unit, **numbers})
    return found


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Everything that is printed and written."""
    tests = [{"split": split.label, **vars(pair)} for split in comparison.splits for pair in split.tests]
    ranks = None if comparison.ranks is None else vars(comparison.ranks)
    lines = {"warnings": comparison.warnings, "hints": comparison.hints}
    return {"rows": rows(comparison), "tests": tests, "friedman": ranks, **lines}


def _csv(lines: list[dict[str, Any]], columns: list[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    plain: Callable[[Any], Any] = lambda v: f"{v:.6g}" if isinstance(v, float) else v  # noqa: E731
    writer.writerows({k: plain(v) for k, v in line.items()} for line in lines)
    return text.getvalue()
