"""Writes settings.md: every key of an experiment file, its default and its meaning, from the settings' classes.

python docs/list_settings.py            # write it
python docs/list_settings.py --check    # say which keys are missing, exit code 1
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path

from fcil.anchors import AnchorSettings
from fcil.data import DataSettings
from fcil.data.preparation import AugmentSettings
from fcil.data.settings import PartitionSettings
from fcil.distillation.quantisation import QuantiseSettings
from fcil.distillation.settings import StudentSettings, TeacherSettings
from fcil.distillers.common.base import distiller_class, distiller_names
from fcil.federation.optimisation.settings import OPTIMIZERS
from fcil.federation.protection.aggregation import RULES
from fcil.federation.protection.attacks import ATTACKS
from fcil.federation.protection.mods import MODS
from fcil.federation.protection.privacy import Privacy
from fcil.federation.settings import FederationSettings, Resources
from fcil.methods.listing import options
from fcil.nets import NetSettings
from fcil.nets.series import ShapeFormerSettings
from fcil.optimizer import OptimizerSettings
from fcil.runs.plans import Experiment, TrainSettings
from fcil.searching.settings import HalvingSettings, SearchSettings

PAGE = Path(__file__).parent / "settings.md"
SECTIONS: dict[str, type] = {
    "data": DataSettings,
    "data.augment": AugmentSettings,
    "federation": FederationSettings,
    "federation.privacy": Privacy,
    "optimizer": OptimizerSettings,
    "net": NetSettings,
    "net.shapelets": ShapeFormerSettings,
    "anchors": AnchorSettings,
    "resources": Resources,
    "train": TrainSettings,
    "search": SearchSettings,
    "search.halving": HalvingSettings,
    "teacher": TeacherSettings,
    "student": StudentSettings,
    "quantise": QuantiseSettings,
}
CHOICES: dict[str, Mapping[str, type]] = {
    "federation.aggregation": RULES,
    "federation.server": OPTIMIZERS,
    "federation.attack": ATTACKS,
    "federation.mods": MODS,
    "distiller": {name: distiller_class(name) for name in distiller_names()},
}
PARTITION = ("capped", "draw")
"""Keys of a partition beside the one that names its kind."""
HEAD = """# Settings

The keys of an experiment file, written by [list_settings.py](list_settings.py) from the classes that read it. A key
that does not exist is an error, with the nearest guess. `fcil show X.yaml` prints a file with every default filled in;
on a command line a key is given as `federation.rounds=5`. What the keys are for: [experiments.md](experiments.md).
Options of a strategy or synthesizer: `fcil list strategies lander`, `fcil list synthesizers nayer`. `teacher`,
`student`, `distiller` and `quantise` are of `fcil distill`. Editors read all of it from
`fcil/config/experiment.schema.json`.
"""


def row(key: str, default: str, meaning: str) -> str:
    if default.startswith("{"):  # a section: of its own, or the same keys elsewhere
        section = key if key in SECTIONS else key.rpartition(".")[2]
        default = f"those of {section}"
    cells = (f"`{key}`", default if default == "required" else f"`{default}`", meaning.replace("|", "\\|"))
    return f"| {' | '.join(cells)} |"


def keys() -> dict[str, list[dict[str, str]]]:
    """Of each section its keys, with default and meaning; the top of the file is the section ''."""
    top = [key for key in options(Experiment) if key["option"] not in SECTIONS]
    matrix = {"option": "matrix", "default": "none", "what": "Lists of values; every combination is run."}
    found = {"": [*top, matrix]} | {name: options(kind) for name, kind in SECTIONS.items()}
    found["data.partition"] = [key for key in options(PartitionSettings) if key["option"] in PARTITION]
    for name, kinds in CHOICES.items():
        found[name] = [
            {**key, "option": f"{kind}.{key['option']}"} for kind, of in kinds.items() for key in options(of)
        ]
    parents = [name.partition(".")[0] for name in found]
    return {name: found[name] for name in sorted(found, key=lambda name: parents.index(name.partition(".")[0]))}


def about(section: str) -> str:
    """What stands between a section's heading and its table."""
    if section == "data.partition":
        return " ".join(inspect.getdoc(PartitionSettings).partition("\n\n")[2].split()) + "\n\n"
    kinds = CHOICES.get(section, {})
    lines = [f"- `{name}`: {inspect.getdoc(kind).splitlines()[0]}" for name, kind in kinds.items()]
    head = "A list of these." if section == "federation.mods" else "One of these, as `NAME` or `{NAME: {its options}}`."
    return "\n".join([head, "", *lines, "", ""]) if lines else ""


def table() -> str:
    parts = [HEAD]
    for section, found in keys().items():
        parts.append(f"## {section or 'Top of the file'}\n\n{about(section)}| key | default | meaning |\n|---|---|---|")
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
