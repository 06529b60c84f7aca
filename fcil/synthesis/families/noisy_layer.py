"""Shared base of methods with a noisy layer: their settings, the state of a chain and the schedules.

`nayer` holds the method; `muse` builds on it. There are two schedules (episodes count from 1, w = `warmup`):

    schedule                        lander                        nayer
    generator rebuilt (`life` f)    1 + f, 1 + 2 f, ...           also w + 1 and f, 2 f, ... before and after it
    batches kept                    after the warm-up             all, those of the warm-up too
    adversarial term                from w + 3 on                 from w + 1 on
    student's optimizer             a new one in every episode    one, whose rate falls as a cosine
    student learns                  when a batch is kept          from w + 1 on

LANDER @ 44d7acc, methods/lander.py; NAYER @ c6bedcd, datafree_kd.py and synthesis/nayer.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field
from torch import Tensor, nn, optim

from fcil.losses import Averages
from fcil.nets import Net, NoisyGenerator
from fcil.synthesis.common.inner_loop import Batches, Cut
from fcil.synthesis.families.with_student import PoolStudentLoop
from fcil.types import Count, Index, NonNegative, Positive, Weight

ROWS = 10
"""Rows that share a noisy layer in LANDER's code (`nl`)."""
Share = Annotated[float, Field(ge=0, lt=1)]

SIDES: dict[str, tuple[object, object]] = {
    # field: (the paper's method, or ours where the paper is silent; the released code)
    "stats": ("carry", "discard"),
    "sigma": ("positive", "free"),
    "student_start": ("fresh", "reference"),
    "student_mode": ("eval", "reference"),
    "first_kept": ("after-warmup", "last-warmup"),
    "cut": ("latest", "string-sorted"),
    "rounding": ("round", "floor"),
}


def rows_of_a_layer(classes: int) -> int:
    """Rows of a batch that share a noisy layer, so that no two of one class do: the `auto` of `rows_per_layer`.

    Labels come in whole sweeps over the classes, and a sample follows from its label and its layer alone. So it is a k
    that divides a sweep: the largest up to 10, or the whole sweep where that is below 4.
    """
    rows = next(k for k in range(min(ROWS, classes), 0, -1) if classes % k == 0)
    return rows if rows >= min(classes, 4) else classes


@dataclass
class NoisyLayerReplica(Batches):
    """The state of one generator and its student."""

    generator: NoisyGenerator
    student: Net
    mean: nn.Parameter  # (channels,)
    spread: nn.Parameter  # (channels,); sigma, or what softplus turns into sigma
    averages: Averages | None = None
    statistics: list[Tensor] = field(default_factory=list)  # (2, channels) each: what the batch was made under
    teaching: optim.SGD | None = None  # of the student, where one serves all episodes
    beyond: Any = None  # a dataclass of the extra state of a method that builds on this one


class Moment(NamedTuple):
    """Actions of an episode."""

    rebuild: bool
    loops: int
    adversarial: bool
    keep: bool
    teach: bool
    past: float  # share of the student's episodes that lies behind it, in [0, 1)


@dataclass(frozen=True, kw_only=True)
class NoisyLayerLoop(PoolStudentLoop):
    """Settings of methods with a noisy layer."""

    schedule: Literal["lander", "nayer"] = "lander"
    """The order of events: LANDER's on its server, or that of NAYER alone; a table of both heads this module."""
    rounds: Count = 40
    """Episodes after the warm-up, whose batches enter the pool (`syn_round`; 100, 200 or 300 in NAYER alone)."""
    warmup: Index = 10
    """Episodes before them, in which the student does not learn (`warmup`; 20 in NAYER alone)."""
    steps: Count = 40
    """Generator steps per inner loop (`g_steps`; 30 in NAYER alone for ten classes, 60 for Tiny-ImageNet)."""
    batch_size: Annotated[int, Field(ge=2)] = 256
    """Samples per generator step (`synthesis_batch_size`; 400 in NAYER alone)."""
    loops: Count = 1
    """Inner loops per episode, each with a re-drawn noisy layer (`g_loops`; 2 in NAYER alone)."""
    warmup_loops: Count | None = None
    """Inner loops per episode of the warm-up (`gwp_loops`; 10 in NAYER alone); null: as many as later."""
    life: Count | None = None
    """Episodes between rebuilds of the whole generator (`g_life`; 10 in NAYER alone, never in LANDER)."""
    lr: Positive = 2e-3
    """Adam's rate for the generator (`lr_g`; 4e-3 in NAYER alone)."""
    stats_lr: Positive = 1e-2
    """Adam's rate for the learnt mean and deviation."""
    latent: Count = 256
    """Outputs of a noisy layer (`nz`; 1000 in NAYER alone)."""
    width: Count = 64
    """Channels of the generator's last stage (`ngf`)."""
    rows_per_layer: Count | Literal["auto"] | None = "auto"
    """Rows of a batch that share a noisy layer (`nl`); null: as many as classes, the K-to-1 form of NAYER; auto: 10, or
    fewer or more where 10 would give a layer the same class twice, and so the same image (10 in the reference)."""
    bn: Weight = 1.0
    """Weight of batch-norm matching (10 in NAYER alone)."""
    bn_momentum: Share = 0.9
    """Share of the past in the matched statistics, the same on both sides; 0 matches every batch by itself."""
    ce: Weight = 0.5
    """Weight of the cross-entropy to the target class (`oh`)."""
    adv: Weight = 1.0
    """Weight of the disagreement with the student (1.33 in NAYER alone)."""
    learn_stats: bool = True
    """Learn the mean and deviation that normalise samples (LANDER), instead of using the real ones."""
    stats: Literal["carry", "discard"] | None = None
    """Whether samples keep the learnt statistics (paper) or are normalised by the real ones later (reference)."""
    sigma: Literal["positive", "free"] | None = None
    """Learnt deviation kept positive by softplus (ours), or unconstrained (reference)."""
    student_start: Literal["fresh", "reference"] | None = None
    """Student drawn anew (ours; the paper is silent), or with the teacher's classifier and statistics (reference)."""
    student_mode: Literal["eval", "reference"] | None = None
    """Student in eval mode in every loop (ours), or in train mode from an episode's second loop on (reference)."""
    first_kept: Literal["after-warmup", "last-warmup"] | None = None
    """First batch LANDER's schedule keeps: after the warm-up (ours), or its last one (reference; 41 instead of 40)."""
    student_steps: Index = 50
    """Student steps per episode after the warm-up (`kd_steps`; 400 in NAYER alone)."""
    student_lr: Positive = 0.1
    """SGD rate of the student (0.2 in NAYER alone)."""
    student_lr_end: NonNegative = 2e-4
    """SGD rate at the end of the cosine of NAYER's schedule."""
    student_batch: Count = 128
    """Samples per student step (512 in NAYER alone)."""
    student_decay: NonNegative = 2e-4
    """Weight decay of the student (1e-4 in NAYER alone)."""
    student_text: Weight = 5.0
    """Weight of matching the label-text heads of teacher and student, where there are any (0 in NAYER alone)."""
    cut: Cut | None = None
    """Samples that are kept when there are too many: the latest (ours), or by file name (reference)."""

    needs: ClassVar[frozenset[str]] = frozenset({"anchors", "batchnorm"})
    differences = SIDES

    @property
    def required(self) -> frozenset[str]:
        return self.needs if self.bn else self.needs - {"batchnorm"}

    def smoke(self) -> Self:
        return replace(super().smoke(), warmup=0)

    def rows_of(self, classes: int) -> int:
        """Rows of a batch that share a noisy layer, of so many classes to make."""
        if self.rows_per_layer != "auto":
            return self.rows_per_layer or classes
        if self.fidelity == "reference":
            return ROWS
        return rows_of_a_layer(classes)

    @property
    def episodes(self) -> int:
        """Return the episodes of a chain: every chain warms up; the rounds that are kept are shared."""
        return self.warmup + -(-self.rounds // self.chains)

    def moment(self, number: int) -> Moment:
        """Return the actions of episode `number` under the schedule."""
        warm, before, alone = number <= self.warmup, number - 1, self.schedule == "nayer"
        rebuild = self.life is not None and before > 0 and before % self.life == 0
        if alone and self.life is not None and before > 0:
            rebuild = rebuild or (before - self.warmup) % self.life == 0
        keep = not warm or (number == self.warmup and self.settled.first_kept == "last-warmup")
        return Moment(
            rebuild=rebuild,
            loops=(self.warmup_loops if warm else None) or self.loops,
            adversarial=number > self.warmup + (0 if alone else 2),
            keep=keep or alone,
            teach=not warm if alone else keep,
            past=max(0, before - self.warmup) / (self.episodes - self.warmup),
        )
