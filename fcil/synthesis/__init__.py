"""Data-free synthesis: labelled samples from a trained net alone.

    import fcil.synthesis
    nayer = fcil.synthesis.create("nayer", rounds=40)
    pool = nayer.run(teacher=net, labels=range(20), anchors=anchors, shape=(3, 32, 32))

A synthesizer knows nothing of clients. The server of a federation runs it from a strategy's
`after_task`; outside a federation it serves distillation.
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

# The modules' paths up to 0.1, for users' strategies and those kept in run folders.
for _name, _module in {"base": base, "keeper": inner_loop, "pool": pool, "student": student}.items():
    sys.modules[f"{__name__}.{_name}"] = _module
