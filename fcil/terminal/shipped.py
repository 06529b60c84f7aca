"""Files of the package that are made from its code: `python -m fcil.terminal.shipped` writes them.

With them the command line tells what it knows without loading torch; a test sees that they are as the code is. They are
the JSON schema of the files of `fcil run`, `fcil train` and `fcil distill`, and the catalogue of methods.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fcil.config
from fcil.methods import catalogue

if TYPE_CHECKING:
    from fcil.config.json_schema import Schemas

SCHEMA = Path(fcil.config.__file__).with_name("experiment.schema.json")
"""Path of the schema that `fcil show --schema` prints."""
ABOUT = (
    "A file of `fcil run`, `fcil train` or `fcil distill`. Editors that know the YAML language server check a file "
    "whose first line is `# yaml-language-server: $schema=experiment.schema.json`, with the path of this schema from "
    "there."
)
MATRIX = "Key paths such as `data.tasks`, each with a list of values: the product of the lists is run."
SEARCH = "What `fcil search` tries on held-out training samples; `fcil run` does not play such a file."
Schema = dict[str, Any]


def experiment_schema() -> Schema:
    """The JSON schema of experiments, central trainings and distillations, which differ in their keys."""
    from fcil.config.json_schema import Schemas
    from fcil.config.matrix import DISTILLS, FEDERATES, TRAINS
    from fcil.distillation.settings import SHARED_OUT, Distillation
    from fcil.runs.plans import Experiment
    from fcil.training import Training

    schemas = Schemas()
    files = [schemas.of(cls) for cls in (Experiment, Distillation, Training)]
    data = schemas.definitions["DataSettings"]
    del data["required"]  # a matrix may vary what is required
    teacher = {key: value for key, value in data["properties"].items() if key not in SHARED_OUT}
    teacher["tasks"] = {"const": 1, "description": "A distillation has one task."}
    closed = {**data["else"], "properties": dict.fromkeys(teacher, True)}
    schemas.definitions["DistillationData"] = {**data, "properties": teacher, "else": closed}
    schemas.definitions["Distillation"]["properties"]["data"]["$ref"] = "#/definitions/DistillationData"
    for name in ("Experiment", "Distillation", "Training"):
        whole = schemas.definitions[name]
        required = [key for key in whole.pop("required") if key not in ("name", "data")]
        whole["allOf"] = [_given("data", "dataset"), *map(_given, required)]
        whole["properties"]["seeds"] |= {"minItems": 1, "uniqueItems": True}
        matrix = schemas.of_matrix(name)
        if name == "Experiment":
            asked = [_search(schemas, matrix), {"type": "null"}]
            whole["properties"]["search"] = {"anyOf": asked, "description": SEARCH}
        whole["properties"]["matrix"] = {"anyOf": [matrix, {"type": "null"}], "description": MATRIX}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Experiment, central training or distillation",
        "description": ABOUT,
        "type": "object",
        "if": {"allOf": [_mentioned(DISTILLS), {"not": _mentioned(FEDERATES)}]},
        "then": files[1],
        "else": {
            "if": {"allOf": [_mentioned({TRAINS}), {"not": _mentioned(FEDERATES)}]},
            "then": files[2],
            "else": files[0],
        },
        "definitions": schemas.definitions,
    }


def _search(schemas: Schemas, matrix: Schema) -> Schema:
    """Return the schema of the section `search`, whose space has the key paths of a matrix."""
    from fcil.searching.settings import OBJECTIVES, SearchSettings
    from fcil.searching.space import searchable

    reference = schemas.of(SearchSettings)
    asked, space = schemas.definitions["SearchSettings"]["properties"], schemas.definitions.pop("Space")
    asked["metric"]["enum"] = [*OBJECTIVES]
    asked["space"] = {**space, "description": asked["space"]["description"]}
    space = asked["space"]
    schemas.definitions["Range"] = space["additionalProperties"]["anyOf"][1]
    lists, ranges = "#/definitions/Experiment/properties/matrix/anyOf/0/properties/", {"$ref": "#/definitions/Range"}
    paths = [path for path in matrix["properties"] if path not in ("include", "exclude") and searchable(path)]
    space["properties"] = {path: {"anyOf": [{"$ref": f"{lists}{path}"}, ranges]} for path in paths}
    deeper = {"anyOf": [{"type": "array", "minItems": 1}, ranges]}
    space["patternProperties"] = dict.fromkeys(matrix["patternProperties"], deeper)
    space["additionalProperties"] = False
    return reference


def _given(key: str, inner: str | None = None) -> Schema:
    """There is a key, and one within it, or the matrix says something of it."""
    there: Schema = {"required": [key]}
    if inner is not None:
        there["properties"] = {key: {"required": [inner]}}
    return {"anyOf": [there, _varied(f"^({key}([.]|$)|include$)")]}


def _mentioned(keys: set[str]) -> Schema:
    """One of the keys is there, or in the matrix."""
    return {"anyOf": [*({"required": [key]} for key in sorted(keys)), _varied(f"^({'|'.join(sorted(keys))})([.]|$)")]}


def _varied(pattern: str) -> Schema:
    """A key of the matrix matches."""
    return {"required": ["matrix"], "properties": {"matrix": {"not": {"propertyNames": {"not": {"pattern": pattern}}}}}}


def texts() -> dict[Path, str]:
    """Return the content of each file."""
    schema = json.dumps(experiment_schema(), indent=1, ensure_ascii=False)
    return {SCHEMA: f"{schema}\n", catalogue.SHIPPED: catalogue.written()}


if __name__ == "__main__":
    for path, text in texts().items():
        path.write_text(text, encoding="utf-8")
