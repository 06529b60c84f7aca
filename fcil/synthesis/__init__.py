"""Data-free synthesis: labelled samples from a trained net alone.

    import fcil.synthesis
    nayer = fcil.synthesis.create("nayer", rounds=40)
    pool = nayer.run(teacher=net, labels=range(20), anchors=anchors, shape=(3, 32, 32))

A synthesizer knows nothing of clients. On the server of a federation it serves a strategy's
`after_task`; on its own it serves distillation.
"""

from fcil.synthesis.common.base import Bound, Inversion, Synthesizer, create, synthesizer_class, synthesizer_names

__all__ = ["Bound", "Inversion", "Synthesizer", "create", "synthesizer_class", "synthesizer_names"]
