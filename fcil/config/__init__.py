"""Reading of settings: YAML in, frozen dataclasses out, a closed schema, and errors that name the key."""

from __future__ import annotations

from fcil.config.schema import Where, choice, dump, dump_fields, field_docs, is_folder_name, parse, parse_fields
from fcil.config.yaml import MAX_BYTES, MAX_DEPTH, dump_yaml, load_yaml, parse_yaml

__all__ = [
    "MAX_BYTES",
    "MAX_DEPTH",
    "Where",
    "choice",
    "dump",
    "dump_fields",
    "dump_yaml",
    "field_docs",
    "is_folder_name",
    "load_yaml",
    "parse",
    "parse_fields",
    "parse_yaml",
]
