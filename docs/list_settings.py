"""Writes settings.md: every key of an experiment file, its default and its meaning, from the settings' classes.

python docs/list_settings.py            # write it
python docs/list_settings.py --check    # say which keys are missing, exit code 1
"""

from __future__ import annotations

import sys
from pathlib import Path

from fcil.anchors import AnchorSettings
from fcil.data import DataSettings
from fcil.federation.settings import FederationSettings, Resources
from fcil.methods.listing import options
from fcil.nets import NetSettings
from fcil.optimizer import OptimizerSettings
from fcil.runs.plans import Experiment, TrainSettings
from fcil.searching.settings import HalvingSettings, SearchSettings

PAGE = Path(__file__).parent / "settings.md"
SECTIONS: dict[str, type] = {
    "data": DataSettings,
    "federation": FederationSettings,
    "optimizer": OptimizerSettings,
    "net": NetSettings,
    "anchors": AnchorSettings,
    "resources": Resources,
    "train": TrainSettings,
    "search": SearchSettings,
    "search.halving": HalvingSettings,
}
HEAD = """# Settings

The keys of an experiment file, written by [list_settings.py](list_settings.py) from the classes that read it. A key
that does not exist is an error, with the nearest guess. `fcil show X.yaml` prints a file with every default filled in;
on a command line a key is given as `federation.rounds=5`. What the keys are for: [experiments.md](experiments.md).
Options of a strategy or synthesizer: `fcil list strategies lander`, `fcil list synthesizers nayer`. What may stand
within `data.partition`, `data.augment`, `federation.aggregation`, `privacy` and `attack` and `net.shapelets`, and the
sections of a distillation (`teacher`, `student`, `distiller`, `quantise`), is in `fcil/config/experiment.schema.json`,
which editors read, and in [experiments.md](experiments.md) and [methods.md](methods.md).
"""


def row(key: str, default: str, meaning: str) -> str:
    cells = (f"`{key}`", default if default == "required" else f"`{default}`", meaning.replace("|", "\\|"))
    return f"| {' | '.join(cells)} |"


def keys() -> dict[str, list[dict[str, str]]]:
    """Of each section its keys, with default and meaning; the top of the file is the section ''."""
    top = [key for key in options(Experiment) if key["option"] not in SECTIONS]
    matrix = {"option": "matrix", "default": "none", "what": "Lists of values; every combination is run."}
    return {"": [*top, matrix]} | {name: options(kind) for name, kind in SECTIONS.items()}


def table() -> str:
    parts = [HEAD]
    for section, found in keys().items():
        parts.append(f"## {section or 'Top of the file'}\n\n| key | default | meaning |\n|---|---|---|")
        prefix = f"{section}." if section else ""
        parts[-1] += "".join(f"\n{row(prefix + k['option'], k['default'], k['what'])}" for k in found) + "\n"
    return "\n".join(parts)


def outdated() -> list[str]:
    """Keys and defaults that the page has wrong; how a meaning is worded is not looked at."""

    def listed(page: str) -> list[str]:
        return [" | ".join(line.split(" | ")[:2]) for line in page.splitlines() if line.startswith("| `")]

    there, wanted = listed(PAGE.read_text(encoding="utf-8")), listed(table())
    return [f"settings.md: {line}" for line in [*there, *wanted] if there.count(line) != wanted.count(line)]


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(table(), encoding="utf-8")
    wrong = outdated()
    print("\n".join(wrong) or "docs/settings.md has every key")
    sys.exit(bool(wrong))
