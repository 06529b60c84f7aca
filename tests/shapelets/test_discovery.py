"""Discovery of shapelets, beside plain loops over everything."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from fcil.shapelets import Discovery, Shapelets, discover
from fcil.shapelets.distances import Channel
from fcil.shapelets.gain import information_gain
from fcil.shapelets.points import candidates
from fcil.shapelets.select import best


def series(lengths, channels=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.full((len(lengths), channels, max(lengths)), math.nan)
    for row, length in enumerate(lengths):
        x[row, :, :length] = torch.randn(channels, length, generator=generator).cumsum(1)
    return x


# Plain loops: one value at a time ------------------------------------------------------------------


def plain_pieces(row, share):
    length = len(row)
    mean = (length - 1) / 2
    spread = math.sqrt(sum((t - mean) ** 2 for t in range(length)) / length)
    points, pieces = [0, length - 1], []
    for _ in range(min(length, max(5, int(share * length))) - 2):
        far, new = -1.0, -1
        for t in range(length):
            if t in points:
                continue
            a, b = max(p for p in points if p < t), min(p for p in points if p > t)
            slope = (row[b] - row[a]) / ((b - a) / spread)
            away = abs(slope * (t - a) / spread + row[a] - row[t]) / math.sqrt(slope**2 + 1)
            if away > far:
                far, new = away, t
        points = sorted([*points, new])
        at = points.index(new)
        pieces.append((points[at - 1], points[at + 1]))
        if at > 1:
            pieces.append((points[at - 2], new))
        if at < len(points) - 2:
            pieces.append((new, points[at + 2]))
    return pieces


def plain_distance(piece, start, other, window):
    def bend(values):
        return math.sqrt(sum((b - a) ** 2 for a, b in pairwise(values)) + 1e-3)

    nearest = math.inf
    for at in range(start - window, start + window + 1):
        theirs = other[at : at + len(piece)] if at >= 0 else []
        if len(theirs) == len(piece):
            apart = math.sqrt(sum((a - b) ** 2 for a, b in zip(piece, theirs, strict=True)))
            bends = bend(piece), bend(theirs)
            nearest = min(nearest, apart * max(bends) / min(bends))
    return nearest


def entropy(members, count):
    return -sum(n / count * math.log2(n / count) for n in (members, count - members) if n) if count else 0.0


def plain_gain(distances, positive, thresholds):
    own = sorted(d for d, p in zip(distances, positive, strict=True) if p)
    quantiles = [own[math.ceil(len(own) * fifth / 5) - 1] for fifth in range(1, 6)]
    gains = [0.0]
    for border in quantiles if thresholds == "quantiles" else distances:
        below = [p for d, p in zip(distances, positive, strict=True) if d <= border]
        above = [p for d, p in zip(distances, positive, strict=True) if d > border]
        parts = sum(len(part) / len(distances) * entropy(sum(part), len(part)) for part in (below, above))
        gains.append(entropy(sum(positive), len(positive)) - parts)
    return max(gains)


def plain_choice(pieces, count):
    """`pieces`: gain, channel, start, end. The numbers of those chosen."""
    order = sorted(range(len(pieces)), key=lambda p: -pieces[p][0])
    chosen = []
    for p in order:
        _, channel, start, end = pieces[p]
        clash = any(c == channel and s < end and e > start for _, c, s, e in (pieces[q] for q in chosen))
        if not clash and len(chosen) < count:
            chosen.append(p)
    chosen += [p for p in order if p not in chosen][: count - len(chosen)]
    return sorted(chosen, key=lambda p: (pieces[p][2], p))


def plain_discovery(x, y, window, per_class, points, thresholds):
    rows = [[[v for v in channel.tolist() if not math.isnan(v)] for channel in one] for one in x.double()]
    chosen = []
    for label in sorted(set(y.tolist())):
        pieces = []
        for number, one in enumerate(rows):
            if y[number] != label:
                continue
            for channel, row in enumerate(one):
                for start, end in plain_pieces(row, points):
                    far = [plain_distance(row[start:end], start, other[channel], window) for other in rows]
                    gain = plain_gain(far, (y == label).tolist(), thresholds)
                    pieces.append((round(gain, 9), channel, start, end, number))
        chosen += [(label, *pieces[p]) for p in plain_choice([p[:4] for p in pieces], per_class)]
    return chosen


@pytest.mark.parametrize("thresholds", ["all", "quantiles"])
@pytest.mark.parametrize("window", [0, 3, 50])
def test_it_finds_what_a_plain_loop_finds(thresholds, window):
    x, y = series([17, 12, 20, 9, 15, 20, 5, 18, 13]), torch.tensor([0, 1, 2] * 3)
    found = discover(x, y, Discovery(window=window, per_class=3, thresholds=thresholds, points=0.4))
    wanted = plain_discovery(x, y, window, 3, 0.4, thresholds)
    ends = found.start + found.length
    parts = (found.label, found.channel, found.start, ends, found.series)
    assert list(zip(*(p.tolist() for p in parts), strict=True)) == [(w[0], *w[2:]) for w in wanted]
    assert found.gain.tolist() == pytest.approx([w[1] for w in wanted], abs=1e-6)
    for k in range(len(found)):
        piece = x[found.series[k], found.channel[k], found.start[k] : ends[k]]
        assert torch.equal(found.values[k, : len(piece)], piece)
        assert not found.values[k, len(piece) :].any()


def test_candidates_are_those_of_a_plain_loop():
    lengths = np.array([30, 3, 11, 2, 1, 4])
    rows = np.random.default_rng(1).normal(size=(6, 30)).cumsum(1)
    found = candidates(rows, lengths, 0.5)
    for row, length in enumerate(lengths):
        own = [*zip(found.start[found.row == row], found.end[found.row == row], strict=True)]
        wanted = plain_pieces(rows[row, :length].tolist(), 0.5) if length > 2 else []
        assert sorted(own) == sorted(wanted)
        assert len(set(own)) == len(own)


def test_candidates_of_straight_and_flat_series_are_found_too():
    rows = np.stack([np.zeros(12), np.arange(12.0)])
    found = candidates(rows, np.array([12, 12]), 0.5)
    assert len(found.row) > 0
    assert (found.end - found.start >= 2).all()


def test_distances_in_small_blocks_are_the_same(monkeypatch):
    x = series([20, 7, 15, 20], channels=1).nan_to_num().double().numpy()[:, 0]
    channel = Channel.of(x, np.array([20, 7, 15, 20]), 4)
    start, end = np.array([0, 9, 14]), np.array([6, 12, 20])
    whole = channel.nearest(0, start, end)
    monkeypatch.setattr("fcil.shapelets.distances.BLOCK", 1)
    assert np.array_equal(whole, channel.nearest(0, start, end))
    assert (whole[:, 0] == 0).all(), "a piece lies in its own series"
    assert np.isinf(whole[2, 1]), "a series of 7 steps has nothing near steps 14 to 20"


def test_gain_of_a_perfect_and_of_no_threshold():
    apart = np.array([[0.0, 1.0, 5.0, 6.0], [1.0, 1.0, 1.0, 1.0]])
    gain = information_gain(apart, np.array([True, True, False, False]), "all")
    assert gain == pytest.approx([1.0, 0.0])
    assert information_gain(apart, np.ones(4, bool), "all") == pytest.approx([0.0, 0.0])


def test_the_best_do_not_overlap_unless_there_are_too_few():
    gain, channel = np.array([0.9, 0.8, 0.7, 0.6]), np.array([0, 0, 1, 0])
    start, end = np.array([5, 8, 5, 0]), np.array([10, 12, 10, 5])
    assert best(gain, channel, start, end, 3).tolist() == [3, 0, 2]
    assert best(gain, channel, start, end, 9).tolist() == [3, 0, 2, 1]


def test_workers_and_blocks_and_padding_change_nothing():
    x, y = series([17, 12, 20, 9, 15, 20]), torch.tensor([0, 1] * 3)
    settings = Discovery(window=5, per_class=2)
    whole = discover(x, y, settings)
    padded = torch.nn.functional.pad(x, (0, 13), value=math.nan)
    for other in (discover(x, y, settings, workers=3), discover(padded, y, settings)):
        assert same(whole, other)


def same(a: Shapelets, b: Shapelets) -> bool:
    return all(torch.equal(v, b.tensors()[k]) for k, v in a.tensors().items())


def test_a_class_is_told_from_those_not_asked_for():
    x, y = series([12] * 9), torch.tensor([0, 1, 2] * 3)
    settings = Discovery(window=5, per_class=2)
    whole, some = discover(x, y, settings), discover(x, y, settings, [2, 0])
    assert some.label.tolist() == [2, 2, 0, 0]
    assert torch.equal(some.gain[:2], whole.gain[4:])
    assert torch.equal(some.gain[2:], whole.gain[:2])


def test_results_are_kept_by_content(tmp_path, monkeypatch):
    x, y = series([12] * 6), torch.tensor([0, 1] * 3)
    first = discover(x, y, Discovery(per_class=2), cache=tmp_path)
    (file,) = tmp_path.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr("fcil.shapelets.discovery._search", None)
        assert same(first, discover(x, y, Discovery(per_class=2), cache=tmp_path))
    discover(x, y, Discovery(per_class=2, window=3), cache=tmp_path)
    discover(x + 1, y, Discovery(per_class=2), cache=tmp_path)
    assert len([*tmp_path.iterdir()]) == 3
    file.write_bytes(b"damaged")
    assert same(first, discover(x, y, Discovery(per_class=2), cache=tmp_path))
    assert same(first, discover(x, y, Discovery(per_class=2), cache=tmp_path))


def test_progress_is_told_to_the_end():
    told = []
    x, y = series([12] * 4), torch.tensor([0, 1] * 2)
    discover(x, y, Discovery(per_class=1), progress=lambda done, total: told.append((done, total)))
    assert told == [(n, 8) for n in range(1, 9)]


def test_fewer_series_are_evenly_spaced():
    x, y = series([12] * 9), torch.tensor([0] * 5 + [1] * 4)
    found = discover(x, y, Discovery(per_class=50, series_per_class=3))
    assert set(found.series[found.label == 0].tolist()) == {0, 2, 4}
    assert set(found.series[found.label == 1].tolist()) <= {5, 6, 7, 8}


def test_series_too_short_have_none_and_holes_are_refused():
    x, y = series([2, 2, 9, 9]), torch.tensor([0, 0, 1, 1])
    assert set(discover(x, y, Discovery(per_class=2)).label.tolist()) == {1}
    x[3, 0, 4] = math.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        discover(x, y, Discovery())
