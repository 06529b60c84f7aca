"""A run folder as an RO-Crate: one zip file, in which JSON-LD says what each file is and how it came about.

It follows RO-Crate 1.1, the Process Run Crate profile 0.5, and, where the net was kept, the draft 0.1 of the Federated
Learning profile (eScienceLab): the run is a `CreateAction`, its objects are settings, method, split and data, its
instrument is this program, its results are the net, the records and metrics. `ro-crate-metadata.json` lies at the top.
"""

from __future__ import annotations

import json
import mimetypes
import zipfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from fcil.errors import ConfigError, StoreError
from fcil.io.atomic import replacing
from fcil.methods import catalogue
from fcil.store import Run
from fcil.store.files import read_json

Entity = dict[str, Any]
METADATA = "ro-crate-metadata.json"
SPECIFICATION = "https://w3id.org/ro/crate/1.1"
PROCESS = "https://w3id.org/ro/wfrun/process/0.5"
FEDERATED = "https://esciencelab.org.uk/federated-learning-ro-crate-profile/federated-learning-profile.html"
PROFILES = {PROCESS: ("Process Run Crate", "0.5"), FEDERATED: ("Federated Learning RO-Crate Profile", "0.1")}
OBJECTS = {
    "config.yaml": "Every setting of the run, defaults written out",
    "strategy.py": "The method: what clients and server compute",
    "partition.json": "Which training samples each client holds, and the names of the classes",
}
"""Files that the run began from."""
RESULTS = {
    "net.safetensors": "The trained global net; its metadata hold settings, classes and normalisation",
    "net_shared.safetensors": "What the strategy's own rule of prediction reads besides the net",
    "accuracy.csv": "Correct and tested examples of each task after each task: the primary result",
    "classes.csv": "Correct and tested examples by class at the end of each task",
    "confusion.csv": "How many of a class were taken for which, at the end of each task",
    "quality.csv": "Top-1 and top-5 accuracy and calibration error at the end of each task",
    "rounds.jsonl": "One line a round: loss terms, accuracy, bytes, seconds, clients, failures",
    "summary.json": "Accuracy, each definition of forgetting, seconds, bytes, memory",
    "env.json": "Versions, machine, digests of the inputs, commit",
}
"""Files that it has written."""
FOLDERS = ("figures", "synthetic", "evaluations")
METRICS = (
    *("final_accuracy", "average_incremental_accuracy", "old_accuracy", "new_accuracy"),
    *("bwt", "plasticity", "stability"),
)
"""Numbers of `summary.json` that stand beside the files; those of forgetting besides."""
BENEATH = {
    "flwr": ("Flower", "https://flower.ai/"),
    "torch": ("PyTorch", "https://pytorch.org/"),
    "ray": ("Ray", "https://www.ray.io/"),
}
"""Packages that the program stands on, by name."""
FORMATS = {".safetensors": "application/octet-stream", ".yaml": "application/yaml", ".jsonl": "application/jsonl"}
_DATE = (1980, 1, 1, 0, 0, 0)


def write_crate(run: Run, path: Path) -> None:
    """Write the crate of a finished run; the same run gives the same bytes.

    Raises:
        ConfigError: the run has not ended.
        StoreError: a record is damaged.
    """
    if not run.finished:
        raise ConfigError(f"to: ro-crate is for finished runs, and {run.path} is none; fcil resume {run.path} ends it")
    names = [name for name in (*OBJECTS, *RESULTS) if (run.path / name).is_file()]
    names += sorted(
        str(file.relative_to(run.path)) for name in FOLDERS for file in (run.path / name).rglob("*") if file.is_file()
    )
    graph = [*_heads(run, names), *_files(run, names), *_action(run, names), *_context(run, names)]
    text = json.dumps({"@context": f"{SPECIFICATION}/context", "@graph": graph}, indent=2, ensure_ascii=False) + "\n"
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as crate:
        crate.writestr(zipfile.ZipInfo(METADATA, _DATE), text)
        for name in names:
            crate.writestr(zipfile.ZipInfo(name, _DATE), (run.path / name).read_bytes())


def _heads(run: Run, names: list[str]) -> list[Entity]:
    """Return the descriptor and the root: what the crate is, and the profiles that it follows."""
    model = "net.safetensors" in names
    root: Entity = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"{run.name}: {run.strategy}, seed {run.seed}",
        "description": f"One run of federated class-incremental learning, simulated by fcil: strategy {run.strategy} "
        f"on data set {_dataset(run)}, settings {run.variant}.",
        "datePublished": _times(run)[1],
        "license": _ref("#license"),
        "conformsTo": [_ref(PROCESS), *([_ref(FEDERATED)] if model else [])],
        "hasPart": [*map(_ref, names), _ref("#data")],
        "mentions": _ref("#run"),
    }
    if model:
        root["mainEntity"] = _ref("net.safetensors")
    about = {"@id": METADATA, "@type": "CreativeWork", "conformsTo": _ref(SPECIFICATION), "about": _ref("./")}
    return [about, root]


def _files(run: Run, names: list[str]) -> list[Entity]:
    described = {**OBJECTS, **RESULTS}
    entities = []
    for name in names:
        suffix = Path(name).suffix
        encoding = FORMATS.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
        size = str((run.path / name).stat().st_size)
        entity = {"@id": name, "@type": "File", "name": name, "encodingFormat": encoding, "contentSize": size}
        entities.append({**entity, "description": described[name]} if name in described else entity)
    return entities


def _action(run: Run, names: list[str]) -> list[Entity]:
    """Return the run itself, with its metrics."""
    start, end = _times(run)
    values = {name: run.summary.get(name) for name in METRICS}
    values |= {f"forgetting.{name}": value for name, value in run.summary.get("forgetting", {}).items()}
    metrics: list[Entity] = [
        {
            "@id": f"#{name}",
            "@type": "PropertyValue",
            "name": name,
            "propertyID": f"fcil.metrics:{name}",
            "value": value,
        }
        for name, value in values.items()
        if value is not None
    ]
    action = {
        "@id": "#run",
        "@type": "CreateAction",
        "name": f"Federated training of {run.name} by {run.strategy}",
        "description": f"{run.summary.get('rounds')} rounds over {run.summary.get('tasks')} tasks, seed {run.seed}",
        "startTime": start,
        "endTime": end,
        "actionStatus": _ref("http://schema.org/CompletedActionStatus"),
        "instrument": _ref("#fcil"),
        "object": [*(_ref(name) for name in names if name in OBJECTS), _ref("#data")],
        "result": [*(_ref(name) for name in names if name not in OBJECTS), *(_ref(m["@id"]) for m in metrics)],
    }
    return [action, *metrics]


def _context(run: Run, names: list[str]) -> list[Entity]:
    """Return data set, programs, profiles and licence."""
    recorded = read_json(run.folder.env)
    versions, digest = recorded.get("versions") or {}, (recorded.get("inputs") or {}).get("images")
    data: Entity = {"@id": "#data", "@type": "Dataset", "name": _dataset(run)}
    known = [row for row in catalogue.rows("datasets") if row["dataset"] == _dataset(run)]
    data |= {"description": known[0]["what"] if known else "Data of the user's own"}
    if digest:
        data["identifier"] = f"fcil digest of the samples: {digest}"
    beneath: list[Entity] = [
        {"@id": url, "@type": "SoftwareApplication", "name": title, "version": str(versions[name]), "url": url}
        for name, (title, url) in BENEATH.items()
        if versions.get(name)
    ]
    program: Entity = {
        "@id": "#fcil",
        "@type": "SoftwareApplication",
        "name": "fcil",
        "description": "Federated class-incremental learning, simulated",
        "version": str(versions.get("fcil", "unknown")),
        "softwareRequirements": [_ref(entity["@id"]) for entity in beneath],
    }
    profiles = PROFILES if "net.safetensors" in names else {PROCESS: PROFILES[PROCESS]}
    return [
        data,
        program,
        *beneath,
        *({"@id": i, "@type": "CreativeWork", "name": n, "version": v} for i, (n, v) in profiles.items()),
        {
            "@id": "#license",
            "@type": "CreativeWork",
            "name": "No licence chosen yet",
            "description": "To be replaced by the licence under which this crate is published.",
        },
    ]


def _times(run: Run) -> tuple[str, str]:
    """Return when the run began, and when it had computed for as long as its summary says."""
    try:
        start = datetime.fromisoformat(str(read_json(run.folder.env)["started"]))
    except (KeyError, ValueError):
        raise StoreError(f"{run.folder.env}: does not tell when the run began") from None
    seconds = min(float(run.summary.get("seconds") or 0), 10**9)
    return start.isoformat(), (start + timedelta(seconds=round(seconds))).isoformat()


def _dataset(run: Run) -> str:
    return str(run.config.get("data", {}).get("dataset", "unknown"))


def _ref(identifier: str) -> Entity:
    return {"@id": identifier}
