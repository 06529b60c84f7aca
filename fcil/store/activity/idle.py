"""Ingredients that did nothing, a sentence each.

What a method sets out to do is what it declares: the terms of its loss, the fields that weigh them, and whether it
keeps images or draws from what is shared. The first task is left out of account where there are others, because
nothing is old in it. A term that is switched off by default (`head` of lander) is not missed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fcil.store.activity.counted import Records, audited, shared_sizes, term_shares
from fcil.store.declared import Declared

SMALL = 0.001
"""Share of the loss below which a term is said to have done nothing."""
NOTHING = 1e-12
LEARNING = ("ce",)
"""Terms that may become small: what is learnt well costs little."""


def unused_components(
    records: Records, found: Mapping[str, Any], options: Mapping[str, Any], declared: Declared
) -> list[str]:
    """A sentence for each ingredient that did nothing.

    Args:
        found: what `activity` made of the records.
        options: of the strategy, by name.
        declared: what the strategy says of itself.
    """
    later = [r for r in records if r["task"] > 1]
    by_sums = "sums" in declared.uses and not any(r.get("terms") for r in records)
    lines = [] if by_sums else _untrained(records)
    lines += _terms(later or records, options, declared, several=bool(later))
    if later and audited(records):
        lines += _unused(records, found, options, declared)
    return lines


def _untrained(records: Records) -> list[str]:
    tasks = dict.fromkeys(r["task"] for r in records)
    trained = {r["task"] for r in records if r.get("terms")}
    return [f"no client trained in task {task}" for task in tasks if task not in trained]


# Loss ---------------------------------------------------------------------------------------------


def _terms(records: Records, options: Mapping[str, Any], declared: Declared, *, several: bool) -> list[str]:
    when = "in every round after task 1" if several else "in every round"
    seen: dict[str, float] = {}  # the largest value of each term
    for record in records:
        for name, value in (record.get("terms") or {}).items():
            seen[name] = max(seen.get(name, 0.0), abs(value or 0.0))
    if not seen:
        return []
    zero = [name for name, most in seen.items() if most < NOTHING]
    # A field that bears the name of a term, and is off or left to the side of `fidelity`, tells that it may be missing.
    missing = [n for n in declared.loss_terms if n not in seen and options.get(n, 1)] if several else []
    off = [name for name, default in declared.weights.items() if options.get(name) == 0 and default != 0]
    why = f" ({', '.join(f'strategy.{name} is 0' for name in off)})" if off else ""
    lines = [f'the loss term "{name}" was 0 {when}{why or _radius(declared.radii.get(name), options)}' for name in zero]
    lines += [f'the loss term "{name}" never appeared after task 1{why}' for name in missing]
    if off and not lines:
        lines = [f"strategy.{name} is 0" for name in off]
    if several:
        small = {n: s for n, s in term_shares(records, digits=9).items() if s < SMALL and n not in (*zero, *LEARNING)}
        lines += [f'the loss term "{name}" was {100 * s:.2g} % of the loss after task 1' for name, s in small.items()]
    return lines


def _radius(name: str | None, options: Mapping[str, Any]) -> str:
    radius = options.get(name) if name else None
    return f"; all samples lay within strategy.{name} ({radius:g})" if _is_number(radius) else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# What is kept, made and shared --------------------------------------------------------------------


def _unused(records: Records, found: Mapping[str, Any], options: Mapping[str, Any], declared: Declared) -> list[str]:
    lines = []
    if "exemplars" in declared.uses and not any(found["exemplars"][:-1]):
        lines.append("clients kept no exemplar of earlier tasks")
    if "synthesizer" in options and not any(found.get("samples") or ()):
        lines.append("the synthesizer made no sample")
    if any(absent := found.get("absent") or ()):
        most = max(absent)
        task, are = absent.index(most) + 1, f"{most} of the classes" if most > 1 else "one of the classes"
        lines.append(f"the synthesizer made no sample of {are} that it was asked for, at the end of task {task}")
    if "samples" in declared.uses and not found["drawn"]:
        lines.append("clients drew nothing from what the server shares")
    last = records[-1]["task"]
    for record in records:
        empty = [name for name, size in shared_sizes(record).items() if not size]
        if record["task"] < last:
            lines += [f'what is shared as "{name}" was empty after task {record["task"]}' for name in empty]
    return lines
