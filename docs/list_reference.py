"""Writes the pages of the reference that come of the code: commands, metrics, cards of methods, bibliography, gallery.

python docs/list_reference.py            # write them
python docs/list_reference.py --check    # say which are out of date, exit code 1
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import yaml

import fcil
from fcil import flower, metrics
from fcil.cli import app
from fcil.config import Where
from fcil.config.registry import files_in
from fcil.methods import bibliography, catalogue
from fcil.methods.introspection import words
from fcil.methods.loading import strategy_class

HERE = Path(__file__).parent
ROOT = HERE.parent
NAMED = "written by [list_reference.py](list_reference.py)"
PICTURES = {
    "results/compare_digits_accuracy.png": "fcil plot results/compare-digits --kind accuracy",
    "results/compare_digits_forgetting.png": "fcil plot results/compare-digits --kind forgetting",
    "results/compare_digits_matrix.png": "fcil plot RUN_DIR --kind matrix",
    "results/compare_digits_synthetic.png": "fcil run experiments/compare_digits.yaml",
    "results/strategies_digits_accuracy.png": "fcil plot results/strategies-digits --kind accuracy",
    "results/strategies_digits_forgetting.png": "fcil plot results/strategies-digits --kind forgetting",
    "results/strategies_digits_bytes.png": "fcil plot results/strategies-digits --kind bytes",
    "results/strategies_digits_matrix.png": "fcil plot results/strategies-digits --kind matrix",
    "results/strategies_digits_report.png": "fcil report results/strategies-digits",
    "results/split_cifar10_accuracy.png": "fcil plot results/split-cifar10 --kind accuracy",
    "results/distill_digits_accuracy.png": "fcil distill experiments/distill/digits_all.yaml",
    "results/japanese_vowels_accuracy.png": "fcil run experiments/series/japanese_vowels.yaml",
    "results/japanese_vowels_synthetic.png": "fcil run experiments/series/japanese_vowels.yaml",
    "docs/pictures/search.png": "fcil search experiments/search_digits.yaml",
    "docs/pictures/shapelets.svg": "python docs/draw_shapelets.py",
    "docs/pictures/shapeformer_federated_accuracy.png": "fcil run experiments/series/shapeformer_federated.yaml",
    "docs/pictures/shapeformer_federated_forgetting.png": "fcil run experiments/series/shapeformer_federated.yaml",
    "docs/pictures/floors.svg": "python docs/draw_architecture.py",
    "docs/pictures/imports.svg": "python docs/draw_architecture.py",
    "docs/pictures/walk_image.svg": "python docs/draw_architecture.py",
    "docs/pictures/walk_key.svg": "python docs/draw_architecture.py",
    "docs/pictures/walk_pool.svg": "python docs/draw_architecture.py",
}
"""Every picture of results/ and docs/pictures, and the command that draws it."""


def table(head: str, rows: Iterator[tuple[str, ...]] | list[tuple[str, ...]]) -> str:
    columns = head.split(" | ")
    lines = [f"| {head} |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


# Commands -----------------------------------------------------------------------------------------


def commands() -> str:
    parts = [
        f"# Commands\n\nEvery command, {NAMED} from the program. `fcil COMMAND --help` says the same on a terminal. "
        "Exit codes: 0 well, 1 a run or a check failed, 2 a mistake in what was asked, 130 Ctrl-C.\n"
    ]
    for program, group in {"fcil": app, "python -m fcil.flower": flower.cli}.items():
        found: Any = typer.main.get_command(group)
        parts += [_command(f"{program} {name}", command) for name, command in found.commands.items()]
    return "\n".join(parts)


def _command(name: str, command: Any) -> str:
    listed, rows = [name], []
    for param in command.params:
        if param.param_type_name == "argument":
            shown = param.name.upper() + ("..." if param.nargs == -1 else "")
            listed.append(shown if param.required else f"[{shown}]")
            rows.append((f"`{shown}`", "required" if param.required else "", param.help or ""))
        else:
            flags = ", ".join(f"`{flag}`" for flag in [*param.opts, *param.secondary_opts])
            default = "" if param.default in (None, False) or callable(param.default) else f"`{param.default}`"
            rows.append((flags, "required" if param.required else default, param.help or ""))
    examples = [line.strip() for line in (command.epilog or "").splitlines() if line.startswith("  ")]
    usage = " ".join([*listed, "[OPTIONS]"])
    return (
        f"## {name}\n\n{inspect.cleandoc(command.help or '')}\n\n`{usage}`\n\n"
        + table("argument or option | default | meaning", rows)
        + "\n```bash\n" + "\n".join(examples) + "\n```\n"
    )  # fmt: skip


# Metrics ------------------------------------------------------------------------------------------

MEASURED = {
    "Accuracy": ("accuracy_after_each_task", "final_accuracy", "average_incremental_accuracy", "group_accuracy"),
    "Forgetting, transfer, stability": (
        *("per_task_forgetting", "forgetting_after_each_task", "bwt", "plasticity", "stability"),
    ),
    "Below the task": ("measures", "calibration_error"),
}


def metrics_page() -> str:
    head = inspect.cleandoc(metrics.__doc__ or "").partition("\n\n")[2]
    parts = [
        f"# Metrics\n\nEvery metric with its formula, {NAMED} from [fcil/metrics.py](../fcil/metrics.py).\n\n{head}\n"
    ]
    for title, names in MEASURED.items():
        parts.append(f"## {title}\n")
        parts.append(table("metric | formula", [(f"`{name}`", _formula(getattr(metrics, name))) for name in names]))
        if title.startswith("Forgetting"):
            parts.append("The definitions of forgetting, by the name under which `summary.json` has them:\n")
            parts.append(
                table("forgetting | formula", [(f"`{n}`", _formula(f)) for n, f in metrics.FORGETTING.items()])
            )
    return "\n".join(parts)


def _formula(function: Any) -> str:
    """Return what a docstring says, with its formulas as code."""
    text = " ".join(inspect.cleandoc(function.__doc__ or "").partition("\n\nRaises")[0].split()).removeprefix("Return ")
    formula = r"(?:a_t = )?(?:1/(?:\(T-1\)|T) )?(?:sum_|max_\{).*?(?=: |; |, [a-z(]| of every| \(iC|\. |$)"
    return re.sub(formula, lambda found: f"`{found[0]}`", text, count=1)


# Cards --------------------------------------------------------------------------------------------


def cards() -> str:
    told = yaml.safe_load((HERE / "cards.yaml").read_text(encoding="utf-8"))
    parts = [
        f"# Cards of the methods\n\nOne card a method, {NAMED} from what its class and its file declare; rows "
        "*memory*, *run on* and *known failures* are in [cards.yaml](cards.yaml), from measured results alone "
        "([results](../results/README.md)). *nearest to the paper* is a file of settings with the source of each "
        "value. [Which method when](choosing.md) puts them beside each other.\n\n## Strategies\n"
    ]
    for row in catalogue.rows("strategies"):
        if row["strategy"] in told["strategies"]:
            parts.append(_strategy_card(row, told["strategies"][row["strategy"]]))
    parts.append("## Synthesizers\n")
    parts += [
        _synthesizer_card(row, told["synthesizers"][row["synthesizer"]]) for row in catalogue.rows("synthesizers")
    ]
    return "\n".join(parts)


def _card(name: str, what: str, facts: dict[str, str]) -> str:
    rows = [(title, text) for title, text in facts.items() if text]
    return (
        f"### {name}\n\n{what.partition(': ')[2][:1].upper()}{what.partition(': ')[2][1:]}\n\n{table('fact | ', rows)}"
    )


def _strategy_card(row: dict[str, Any], told: dict[str, str]) -> str:
    name = row["strategy"]
    source = files_in("strategies")[name].read_text(encoding="utf-8")
    kind = strategy_class(name, None, source, Where(name))
    settings = ROOT / "experiments" / "methods" / f"{name}.yaml"
    facts = {
        "leaves the client": row["up"],
        "is sent to it": row["down"],
        "memory": told["memory"],
        "needs": row["needs"],
        "extra models": _extra(row, words(kind, "broadcasts")),
        "samples": " and ".join(sorted(kind.inputs)),
        "loss terms": ", ".join(f"`{term}`" for term in words(kind, "loss_terms")),
        "nearest to the paper": f"[experiments/methods/{name}.yaml](../experiments/methods/{name}.yaml)"
        if settings.is_file()
        else "",
        **_sources(source, f"../strategies/{name}.py"),
        "run on": told["tested"],
        "known failures": told.get("fails", ""),
        "options": f"`fcil list strategies {name}`",
    }
    return _card(name, row["what"], facts)


def _extra(row: dict[str, Any], broadcasts: tuple[str, ...]) -> str:
    models = {
        "teacher": "a teacher (the last global net)",
        "generator": "a generator",
        "past": "the last discriminator",
    }
    named = [models[word] for word in broadcasts if word in models]
    synthesis = ["a synthesizer's generator and student on the server"] if "synthesis" in row["needs"] else []
    return ", ".join([*named, *synthesis]) or "none"


def _synthesizer_card(row: dict[str, Any], told: dict[str, str]) -> str:
    name = row["synthesizer"]
    needs = {"anchors": "label-text embeddings", "batchnorm": "batch norm in the net"}
    facts = {
        "makes": row["makes"],
        "needs": ", ".join(needs[word] for word in row["needs"].split(", ") if word),
        **_sources(files_in("fcil.synthesis")[name].read_text(encoding="utf-8"), f"../fcil/synthesis/{name}.py"),
        "run on": told["tested"],
        "known failures": told.get("fails", ""),
        "options": f"`fcil list synthesizers {name}`",
    }
    return _card(f"{name}, a synthesizer", row["what"], facts)


def _sources(source: str, file: str) -> dict[str, str]:
    links = [
        f"[{repository}](https://github.com/{repository})" + (f" @ {commit}" if commit else "")
        for repository, commit in bibliography.codes(source)
    ]
    return {
        "paper": bibliography.paper(source),
        "code it follows": ", ".join(links),
        "code here": f"[{Path(file).name}]({file})",
    }


# Bibliography and gallery -------------------------------------------------------------------------


def bibliography_page() -> str:
    parts = [
        f"# Bibliography\n\nBibTeX of every method, {NAMED} from the papers that their files name. `fcil cite RUN_DIR` "
        "prints the entries of the methods that some runs have used, with those of Flower and fcil. Authors beyond "
        "those that a file names are `others`: complete an entry from its arXiv number before it is printed.\n"
    ]
    for title, package in {
        "Strategies": "strategies",
        "Synthesizers": "fcil.synthesis",
        "Distillers": "fcil.distillers",
    }.items():
        found: dict[str, list[str]] = {}
        for name, file in files_in(package).items():
            for reference in bibliography.references(bibliography.paper(file.read_text(encoding="utf-8"))):
                found.setdefault(reference.bibtex(), []).append(name)
        parts.append(f"## {title}\n\n```bibtex")
        parts += [f"% {', '.join(names)}\n{entry}\n" for entry, names in found.items()]
        parts.append("```\n")
    (flower_entry,) = bibliography.references(bibliography.FLOWER)
    parts.append(
        f"## Platform\n\n```bibtex\n{flower_entry.bibtex()}\n\n{bibliography.platform(fcil.__version__)}\n```\n"
    )
    return "\n".join(parts)


def gallery() -> str:
    parts = [f"# Gallery\n\nEvery picture of these pages, with the command that draws it; {NAMED}.\n"]
    for path, command in PICTURES.items():
        title = Path(path).stem.replace("_", " ")
        link = path.removeprefix("docs/") if path.startswith("docs/") else f"../{path}"
        parts.append(f"## {title[0].upper()}{title[1:]}\n\n![{title}]({link})\n\n```bash\n{command}\n```\n")
    return "\n".join(parts)


def unlisted() -> list[str]:
    """Pictures that the gallery lacks, or has and that are gone; methods without a card."""
    there = {
        str(p.relative_to(ROOT)) for folder in ("results", "docs/pictures") for p in (ROOT / folder).glob("*.[ps][nv]g")
    }
    told = yaml.safe_load((HERE / "cards.yaml").read_text(encoding="utf-8"))
    methods = {"strategies": set(files_in("strategies")) - {"distill"}, "synthesizers": set(files_in("fcil.synthesis"))}
    return [
        *(f"gallery.md: {path}" for path in sorted(there ^ set(PICTURES))),
        *(f"cards.yaml: {name}" for kind, names in methods.items() for name in sorted(names ^ set(told[kind]))),
    ]


PAGES = {
    "commands.md": commands,
    "metrics.md": metrics_page,
    "cards.md": cards,
    "bibliography.md": bibliography_page,
    "gallery.md": gallery,
}


def outdated() -> list[str]:
    """Return pages that differ from what the code says, and what they lack."""
    files = {name: HERE / name for name in PAGES}
    wrong = [
        n for n, write in PAGES.items() if not files[n].is_file() or files[n].read_text(encoding="utf-8") != write()
    ]
    return [*wrong, *unlisted()]


if __name__ == "__main__":
    if "--check" not in sys.argv:
        for page, write in PAGES.items():
            (HERE / page).write_text(write(), encoding="utf-8")
    found = outdated()
    print("\n".join(found) or "the reference is up to date")
    sys.exit(bool(found))
