"""Contradictions between a distillation's file and its data, checked before a teacher is trained."""

from __future__ import annotations

from fcil.config import Where
from fcil.distillation.settings import Distillation
from fcil.federation.context import Datasets
from fcil.nets import check_batch, check_inputs
from fcil.runs.preflight import named, share_out


def check_batches(one: Distillation, datasets: Datasets, where: Where) -> None:
    """Check that teacher and student read such data, and can be trained on batches of their sizes.

    Raises:
        ConfigError: a net is of the other kind, or the batches are of one sample, which is too few for a net.
    """
    shape = share_out(one.teacher_plan(one.seeds[0]), datasets, where).scenario.dataset.shape
    with named(where):
        for net, key in ((one.teacher.net, "teacher.net.name"), (one.student.net, "student.net.name")):
            check_inputs(net, shape, key)
        if not one.teacher.file:
            check_batch(one.teacher.net, shape, one.teacher.batch_size, "teacher.batch_size")
        check_batch(one.student.net, shape, one.resolved_student.batch_size or 1, "student.batch_size")
        if one.synthesizer.numbered or one.resolved_student.learns == "after":  # batches come from a pool of so many
            check_batch(one.student.net, shape, one.synthesizer.samples, "synthesizer.samples")
