"""Laws of a net.

Shapes: B batch, C classes, F feature width, D width of a label-text embedding.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from fcil import rng
from fcil.check.contract import Advice, Check, NotApplicable
from fcil.check.parts.case import PartCase, touched
from fcil.errors import ConfigError
from fcil.nets import Net, NetSettings, build_net, normalises_one
from fcil.nets.backbone import Shape

SHAPES: dict[str, tuple[Shape, ...]] = {
    "images": ((3, 32, 32), (1, 28, 28), (1, 8, 8), (3, 64, 64), (3, 224, 224)),
    "series": ((1, 128), (2, 40), (1, 512)),
}
"""Shapes of samples that a net is tried on, until it can be built for one."""
CLASSES, TEXT, NEAR = 5, 16, 1e-4


def settings_of(case: PartCase) -> NetSettings:
    return NetSettings(name=case.part.path, own=case.settings)


def shape_of(case: PartCase) -> Shape:
    """Return the first shape that the net can be built for.

    Raises:
        ConfigError: there is none.
    """

    def search() -> Shape:
        first: ConfigError | None = None
        for shape in SHAPES[case.settings.inputs]:
            try:
                build_net(settings_of(case), shape=shape, num_classes=CLASSES, text_width=None, key=("check",))
                return shape
            except ConfigError as error:
                first = first or error
        assert first is not None
        raise first

    return case.once("shape", search)


def fresh(case: PartCase, key: str = "check", classes: int = CLASSES) -> Net:
    """Return the net before training, with a label-text head."""
    return build_net(settings_of(case), shape=shape_of(case), num_classes=classes, text_width=TEXT, key=(key,))


def samples(case: PartCase, count: int) -> Tensor:
    return torch.randn(count, *shape_of(case), generator=rng.generator("check", "samples"))


def check_builds(case: PartCase) -> str | None:
    """It is built for images of a usual size, or for series, and maps them to features (B, width)."""
    shape_of(case)
    return None


def check_outputs(case: PartCase) -> str | None:
    """Of each sample it gives finite logits (B, C), features (B, F) and a label-text embedding (B, D)."""
    net, x = fresh(case).eval(), samples(case, 6)
    with torch.no_grad():
        out = net(x)
    assert out.embedding is not None
    wished = {"logits": (6, CLASSES), "features": (6, net.backbone.width), "embedding": (6, TEXT)}
    for name, shape in wished.items():
        found = getattr(out, name)
        if tuple(found.shape) != shape:
            return f"{name} are {list(found.shape)}; expected {list(shape)}"
        if not bool(torch.isfinite(found).all()):
            return f"{name} hold NaN or infinity"
    return None


def check_padding(case: PartCase) -> str | None:
    """Series that end early, padded with NaN, have finite logits."""
    if case.settings.inputs != "series":
        return NotApplicable("it reads images")
    x = samples(case, 4)
    x[:2, :, x.shape[2] // 2 :] = torch.nan
    with torch.no_grad():
        logits = fresh(case).eval()(x).logits
    return None if bool(torch.isfinite(logits).all()) else "a padded series has NaN; call split_padding(x) first"


def check_growth(case: PartCase) -> str | None:
    """A classifier that grows by a class leaves the logits of the others as they were."""
    net, x = fresh(case).eval(), samples(case, 4)
    with torch.no_grad():
        before = net(x).logits
        net.grow(CLASSES + 1, rng.generator("check", "grow"))
        after = net(x).logits
    if after.shape != (4, CLASSES + 1):
        return f"logits are {list(after.shape)} after it; expected {[4, CLASSES + 1]}"
    far = float((before - after[:, :CLASSES]).abs().max())
    return f"an old logit moves by {far:.2g}" if far > NEAR else None


def check_seed(case: PartCase) -> str | None:
    """Its first weights depend on the seed alone, and are others under another."""
    (first, again), problem = touched(lambda _: fresh(case).weights())
    if differ := [name for name, tensor in first.items() if not torch.equal(tensor, again[name])]:
        return f"{differ[0]} begins otherwise under the same seed; draw from torch's stream while it is built"
    if problem is not None:
        return f"when it is built, {problem}"
    other = fresh(case, "another").backbone.state_dict()
    drawn = [n for n, p in fresh(case).backbone.named_parameters() if not torch.equal(p, other[n])]
    return None if drawn else "its trunk begins alike under every seed"


def check_modes(case: PartCase) -> str | None:
    """Running statistics change in training mode alone, and in evaluation mode nothing is drawn."""
    net, x = fresh(case).eval(), samples(case, 6)
    before = net.weights()
    with torch.no_grad():
        (first, again), problem = touched(lambda _: net(x).logits)
    if changed := [name for name, tensor in net.weights().items() if not torch.equal(tensor, before[name])]:
        return f"{changed[0]} changes in evaluation mode"
    if not torch.equal(first, again):
        return "logits differ from one call to the next in evaluation mode; is there a dropout that heeds no mode?"
    return f"in evaluation mode {problem}" if problem else None


def check_mates(case: PartCase) -> str | None:
    """In evaluation mode no logit depends on the other samples of the batch."""
    net, x = fresh(case).eval(), samples(case, 6)
    with torch.no_grad():
        whole = net(x).logits
        apart = torch.cat([net(x[:2]).logits, net(x[2:]).logits])
    far = float((whole - apart).abs().max())
    return f"a logit moves by {far:.2g} when other samples are beside its own" if far > NEAR else None


def check_one(case: PartCase) -> str | None:
    """A batch of one sample goes through in both modes."""
    net, x = fresh(case), samples(case, 1)
    for mode in (False, True):
        try:
            finite = bool(torch.isfinite(net.train(mode)(x).logits).all())
        except (RuntimeError, ValueError) as error:
            return f"in {'training' if mode else 'evaluation'} mode {error}; norm_factory makes layers that allow it"
        if not finite and (not mode or normalises_one(settings_of(case), shape_of(case))):
            return f"in {'training' if mode else 'evaluation'} mode a logit is NaN or infinite"
    return None


def check_state(case: PartCase) -> str | None:
    """Its state dict is all of it: weights that are loaded into another net give the same logits."""
    net, other, x = fresh(case), fresh(case, "another"), samples(case, 6)
    with torch.no_grad():
        net.train()(x)  # which changes running statistics
        other.load(net.weights())
        same = torch.equal(net.eval()(x).logits, other.eval()(x).logits)
    return None if same else "a net with its weights has other logits; is a tensor no parameter and no buffer?"


def check_copy(case: PartCase) -> str | None:
    """A deep copy is the same net, and shares nothing with it."""
    net, x = fresh(case).eval(), samples(case, 4)
    with torch.no_grad():
        before = net(x).logits
        twin = copy.deepcopy(net)
        if not torch.equal(twin(x).logits, before):
            return "a copy has other logits"
        for tensor in twin.state_dict().values():
            tensor.zero_()
        return None if torch.equal(net(x).logits, before) else "what is done to a copy changes the net"


def check_gradients(case: PartCase) -> str | None:
    """Each parameter has a gradient."""
    net, x = fresh(case).train(), samples(case, 6)
    out = net(x)
    assert out.embedding is not None
    (out.logits.square().sum() + out.embedding.square().sum()).backward()
    idle = [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None]
    return Advice(f"{idle[0]} has none: it is sent and averaged, and never trained") if idle else None


_BUILT = ("builds", "outputs")
CHECKS = (
    Check("builds", check_builds, ()),
    Check("outputs", check_outputs, ("builds",)),
    Check("padding", check_padding, _BUILT),
    Check("seed", check_seed, _BUILT),
    Check("modes", check_modes, _BUILT),
    Check("growth", check_growth, (*_BUILT, "modes")),
    Check("mates", check_mates, (*_BUILT, "modes")),
    Check("one", check_one, _BUILT),
    Check("state", check_state, (*_BUILT, "modes")),
    Check("copy", check_copy, (*_BUILT, "modes")),
    Check("gradients", check_gradients, _BUILT),
)
