"""Data-free synthesis: labelled samples from a trained net alone.

    import fcil.synthesis
    nayer = fcil.synthesis.create("nayer", rounds=40)
    pool = nayer.run(teacher=net, labels=range(20), anchors=anchors, shape=(3, 32, 32))

A synthesizer knows nothing of clients. On the server of a federation it serves a strategy's
`after_task`; on its own it serves distillation.
"""

import sys

from fcil.synthesis.common import base, inner_loop, pool, student
from fcil.synthesis.common.base import (
    Bound,
    Inversion,
    Learns,
    Recipe,
    SynthesisProblem,
    Synthesizer,
    create,
    synthesizer_class,
    synthesizer_names,
)

__all__ = [
    "Bound",
    "Inversion",
    "Learns",
    "Recipe",
    "SynthesisProblem",
    "Synthesizer",
    "create",
    "synthesizer_class",
    "synthesizer_names",
]

# Where these lay up to 0.1, for the strategies of users and those kept in run folders.
for _name, _module in {"base": base, "keeper": inner_loop, "pool": pool, "student": student}.items():
    sys.modules[f"{__name__}.{_name}"] = _module
