"""Readers of series: what they read, and the one line about what they do not."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from series_files import Rows, ts_text, waves, write_ts

from fcil.data.series import part as part_module
from fcil.data.series.clean import filled, padded, scaled
from fcil.data.series.part import Part
from fcil.data.series.read import arranged, folder_parts, named_parts, stacked
from fcil.data.series.tables import plain_label, read_npz, read_tsv
from fcil.data.series.ts import read_ts
from fcil.data.series.words import class_words, number_word
from fcil.errors import DataError

ROWS: Rows = [([[1, 2, 3], [4, 5, 6]], "a"), ([[1.5, "-2e-1", 0], [0, 0, 0]], "A")]
NAN = float("nan")


def part_of(*series: list[list[float]], labels: str = "", file: str = "f") -> Part:
    arrays = tuple(np.array(x, dtype=np.float32) for x in series)
    named = tuple(labels) if labels else ("a",) * len(series)
    return Part(file=file, series=arrays, labels=named, rows=tuple(f"line {n}" for n in range(1, len(series) + 1)))


def ts_file(folder: Path, text: str) -> Path:
    path = folder / "Small_TRAIN.ts"
    path.write_text(text, encoding="utf-8")
    return path


# .ts ----------------------------------------------------------------------------------------------


def test_a_ts_file_is_read_with_the_case_of_its_labels(tmp_path: Path) -> None:
    part = read_ts(ts_file(tmp_path, ts_text(ROWS)))
    assert part.labels == ("a", "A")
    assert part.declared == ("A", "a")
    assert part.rows == ("line 9", "line 10")
    assert [x.tolist() for x in part.series] == [[[1, 2, 3], [4, 5, 6]], [[1.5, np.float32(-0.2), 0], [0, 0, 0]]]


def test_missing_values_and_lengths_of_a_ts_file_are_kept(tmp_path: Path) -> None:
    part = read_ts(ts_file(tmp_path, ts_text([([[1, "?", 3]], "x"), ([["NaN", 2]], "y")])))
    assert np.isnan(part.series[0]).tolist() == [[False, True, False]]
    assert np.isnan(part.series[1]).tolist() == [[True, False]]
    assert part.lengths.tolist() == [3, 2]


@pytest.mark.parametrize(
    ("rows", "header", "said"),
    [
        (ROWS, {"classLabel": "true a"}, 'line 10 ends in the label "A", which @classLabel does not list (a).'),
        (ROWS, {"classLabel": "true a A a"}, '@classLabel lists "a" twice'),
        (ROWS, {"classLabel": None}, "no class labels"),
        (ROWS, {"classLabel": None, "targetLabel": "true"}, "no class labels"),
        (ROWS, {"timeStamps": "true"}, "have time stamps"),
        (ROWS, {"timeStamps": "perhaps"}, '@timestamps is "perhaps"; it must be true or false'),
        (ROWS, {"dimensions": 3}, "the header says 3 channels (@dimensions), and the series have 2"),
        (ROWS, {"dimensions": "many"}, '@dimensions is "many"; it must be a whole number'),
        (ROWS, {"univariate": "true"}, "the header says one channel (@univariate true), and the series have 2"),
        (ROWS, {"seriesLength": 4}, "the header says equal lengths of 4 steps"),
        ([([[1, 2]], "a"), ([[1]], "b")], {"equalLength": "true"}, "equal lengths of 2 steps"),
        ([([[1, 2], [1]], "a")], {}, "line 9: channel 2 has 1 steps, channel 1 has 2; all must be of one length"),
        ([([[1, 2], [3, 4]], "a"), ([[1, 2]], "a")], {}, "line 10 has 1 channel, the series before it 2 channels"),
        ([([[]], "a")], {}, "line 9 is a series of no step"),
        ([([[1, "x"]], "a")], {}, 'line 9, channel 1: value 2 is "x"; it must be a number, or ? where one is missing'),
        ([([[1, "inf"]], "a")], {}, 'value 2 is "inf"; it must be a finite 32-bit number'),
        ([([[1, "1e39"]], "a")], {}, 'value 2 is "1e39"; it must be a finite 32-bit number'),
    ],
)
def test_what_is_wrong_with_a_ts_file_is_one_line(tmp_path: Path, rows: Rows, header: dict, said: str) -> None:
    path = ts_file(tmp_path, ts_text(rows, **header))
    with pytest.raises(DataError) as caught:
        read_ts(path)
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no @data line"),
        (b"1,2,3:a\n", "line 1 comes before @data"),
        (b"@classLabel true a\n@data\n", "holds no series"),
        (b"@classLabel true a\n@data\n1,2,3\n", 'ends in the label "1,2,3"'),
        (b"@classLabel true a\n@data\n\xff:a\n", "line 3 is not UTF-8 text"),
        (b"\xef\xbb\xbf@data\n", "no class labels"),
    ],
)
def test_what_is_no_ts_file_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.ts"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.ts: ") as caught:
        read_ts(path)
    assert said in str(caught.value)


def test_files_and_lines_are_read_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ts_file(tmp_path, ts_text(ROWS))
    monkeypatch.setattr(part_module, "MOST_LINE", 16)
    with pytest.raises(DataError, match="line 2 has more than the 16 bytes"):
        read_ts(path)
    monkeypatch.setattr(part_module, "MOST_BYTES", 16)
    with pytest.raises(DataError, match="more than the 16 allowed"):
        read_ts(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="it is a pipe, not a file"):
        read_ts(path)


# .tsv and .npz ------------------------------------------------------------------------------------


def test_nan_at_the_end_of_a_tsv_line_is_padding_and_elsewhere_a_missing_value(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("1\t1\t2\t3\n2.0\tNaN\t5\tNaN\n", encoding="utf-8")
    part = read_tsv(path)
    assert part.labels == ("1", "2")
    assert part.lengths.tolist() == [3, 2]
    assert np.isnan(part.series[1]).tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no series"),
        ("1 2 3\n", "line 1 has no tab"),
        ("1\tNaN\tNaN\n", "line 1 is a series of no step"),
        ("1\t2\tz\n", 'line 1: value 2 is "z"'),
    ],
)
def test_what_is_wrong_with_a_tsv_file_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.tsv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_tsv(path)
    assert said in str(caught.value)


def test_labels_that_are_whole_numbers_lose_their_decimals() -> None:
    assert [plain_label(x) for x in ("1.0", " 2 ", "-1.0000000e+00", "1.5", "nan", "inf", "a")] == [
        *("1", "2", "-1", "1.5", "nan", "inf", "a")
    ]


def npz(path: Path, **arrays: object) -> Path:
    whole = {"x_train": np.ones((2, 3)), "y_train": [0, 1], "x_test": np.ones((2, 3)), "y_test": [1, 0]} | arrays
    np.savez(path, **{name: np.asarray(a) for name, a in whole.items() if a is not None})
    return path


def test_an_npz_file_holds_both_parts(tmp_path: Path) -> None:
    x = np.array([[[1, 2, NAN], [3, 4, NAN]], [[5, NAN, 7], [0, 8, 9]]])
    train, test = read_npz(npz(tmp_path / "x.npz", x_train=x, y_train=["b", "a"], x_test=x[..., :2], y_test=["a", "b"]))
    assert train.lengths.tolist() == [2, 3]
    assert train.labels == ("b", "a")
    assert test.channels == 2
    assert folder_parts(str(tmp_path))[0].labels == folder_parts(str(tmp_path / "x.npz"))[0].labels == train.labels


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"y_test": None}, "lacks y_test"),
        ({"x_train": np.ones(3)}, "x_train is float64 of 3;"),
        ({"x_train": np.array([["a", "b"], ["c", "d"]])}, "x_train is <U1 of 2 x 2"),
        ({"y_train": [1]}, "y_train is int64 of 1; a label for each of 2 series"),
        ({"x_test": np.full((2, 3), np.inf)}, "x_test[0] has a value that is no finite 32-bit number"),
        ({"x_test": np.ones((2, 0))}, "x_test[0] is a series of no step"),
        ({"x_train": np.array([{}, {}], dtype=object).reshape(2, 1)}, "no readable .npz"),
    ],
)
def test_what_is_wrong_with_an_npz_file_is_one_line(tmp_path: Path, arrays: dict, said: str) -> None:
    with pytest.raises(DataError) as caught:
        read_npz(npz(tmp_path / "x.npz", **arrays))
    assert said in str(caught.value)


def test_an_npz_file_that_unpacks_to_too_much_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npz"
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x_train=np.zeros((1000, 100)))
    path.write_bytes(buffer.getvalue())
    monkeypatch.setattr("fcil.data.series.tables.MOST_BYTES", 10**5)
    with pytest.raises(DataError, match="at most 100,000 are read"):
        read_npz(path)
    path.write_bytes(b"PK no zip")
    with pytest.raises(DataError, match=r"no readable \.npz"):
        read_npz(path)


# Cleaning -----------------------------------------------------------------------------------------


def test_missing_values_are_refused_or_lie_on_a_straight_line_within_series_and_channel() -> None:
    part = part_of([[NAN, 2, NAN, NAN, 8, NAN], [1, 1, 1, 1, 1, 1]])
    with pytest.raises(DataError) as caught:
        filled(part, "refuse")
    assert "f: line 1: value 1 of channel 1 is missing (4 of 12 in this series)" in str(caught.value)
    assert "data.missing=interpolate" in str(caught.value)
    assert filled(part, "interpolate")[0].tolist() == [[2, 2, 4, 6, 8, 8], [1, 1, 1, 1, 1, 1]]
    with pytest.raises(DataError, match="line 1: channel 2 has no value at all"):
        filled(part_of([[1, 2], [NAN, NAN]]), "interpolate")


def test_each_series_and_channel_is_scaled_over_its_own_steps_and_a_constant_becomes_zero() -> None:
    x = scaled(np.array([[1, 2, 3], [7, 7, 7], [1e-20, -1e-20, 0]], dtype=np.float32))
    assert np.allclose(x.mean(1), 0, atol=1e-7)
    assert np.allclose(x.std(1), [1, 0, 1])
    assert padded([x, x[:, :1]], 4, "f").shape == (2, 3, 4)


def test_padding_is_nan_in_all_channels_and_longer_series_lose_their_end() -> None:
    out = padded([np.ones((2, 1), np.float32), np.arange(6, dtype=np.float32).reshape(2, 3)], 2, "f")
    assert np.isnan(out[0]).tolist() == [[False, True]] * 2
    assert out[1].tolist() == [[0, 1], [3, 4]]


def test_a_set_that_would_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcil.data.series.clean.MOST_VALUES", 10)
    with pytest.raises(DataError, match="2 series of 6 steps are 12 values"):
        padded([np.ones((1, 1), np.float32)] * 2, 6, "f")


# Sets ---------------------------------------------------------------------------------------------


def test_classes_are_in_numeric_order_or_else_in_that_of_their_characters() -> None:
    one = [[[1.0, 2.0]]] * 3
    numeric = part_of(*one)
    numeric = Part(file="f", series=numeric.series, labels=("10", "2", "-1"), rows=numeric.rows)
    found = arranged((numeric, numeric), missing="refuse", longer="refuse", each=False)
    assert found.class_names == ("minus one", "two", "ten")
    assert found.train[1].tolist() == [2, 1, 0]
    text = Part(file="f", series=numeric.series, labels=("b", "B", "10"), rows=numeric.rows)
    found = arranged((text, text), missing="refuse", longer="refuse", each=False)
    assert found.class_names == ("10", "B", "b")


def test_numbers_have_words() -> None:
    assert [number_word(n) for n in (0, 13, 20, 45, 100, 215, -3)] == [
        *("zero", "thirteen", "twenty", "forty-five", "one hundred", "two hundred fifteen", "minus three")
    ]
    assert class_words(("1.0", "2.0")) == ("one", "two")
    assert class_words(("1", "x")) == ("1", "x")
    assert class_words(("1.5", "2")) == ("1.5", "2")
    assert class_words(("1", "1000")) == ("1", "1000")


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        ("ab", "abc", 'f: line 3 is of class "c", which no series of f is of'),
        ("abc", "ab", 'f: has no series of class "c", which f has'),
        ("aa", "a", 'all its series (2) are of class "a"; two classes are needed'),
        ("a", "a", 'all its series (1) are of class "a"; two classes are needed'),
    ],
)
def test_classes_that_lack_a_part_are_one_line(train: str, test: str, said: str) -> None:
    parts = tuple(part_of(*[[[1.0, 2.0]]] * len(labels), labels=labels) for labels in (train, test))
    with pytest.raises(DataError) as caught:
        arranged(parts, missing="refuse", longer="refuse", each=True)  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_parts_with_other_channels_are_one_line() -> None:
    with pytest.raises(DataError, match="g: has 2 channels, and f 1"):
        arranged((part_of([[1, 2]]), part_of([[1, 2], [3, 4]], file="g")), missing="refuse", longer="refuse", each=True)


def test_longer_test_series_are_refused_cropped_or_given_room() -> None:
    train, test = part_of([[1, 2]], [[1]], labels="ab"), part_of([[1, 2, 3]], [[4]], labels="ab", file="g")

    def shapes(longer: str) -> list[tuple[int, ...]]:
        found = arranged((train, test), missing="refuse", longer=longer, each=False)  # type: ignore[arg-type]
        return [found.train[0].shape, found.test[0].shape]

    with pytest.raises(DataError) as caught:
        shapes("refuse")
    assert "g: line 1 has 3 steps, the longest training series 2 (1 longer in all)" in str(caught.value)
    assert shapes("crop") == [(2, 1, 2), (2, 1, 2)]
    assert shapes("pad") == [(2, 1, 3), (2, 1, 3)]


def test_sets_are_stacked_as_channels_only_if_rows_have_equal_labels_and_lengths() -> None:
    first = part_of([[1, 2]], [[3]], labels="ab")
    other = part_of([[5, 6]], [[7]], labels="ab", file="g")
    train, _ = stacked([(first, first), (other, other)])
    assert [x.tolist() for x in train.series] == [[[1, 2], [5, 6]], [[3], [7]]]
    shuffled = part_of([[7]], [[5, 6]], labels="ba", file="g")
    with pytest.raises(DataError) as caught:
        stacked([(first, first), (other, shuffled)])
    assert "labels of 2 of 2 rows differ, first at line 1 (b, not a)" in str(caught.value)
    sorted_by_class = part_of([[7]], [[5, 6]], labels="ab", file="g")
    with pytest.raises(DataError) as caught:
        stacked([(first, first), (sorted_by_class, sorted_by_class)])
    assert "other recordings" in str(caught.value)
    assert "lengths of 2 of 2 rows differ, first at line 1 (1, not 2)" in str(caught.value)
    with pytest.raises(DataError, match="g: has 1 series, and f 2"):
        stacked([(first, first), (part_of([[1, 2]], file="g"), other)])


def test_a_set_is_found_by_name_in_a_folder_and_a_wrong_name_gets_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "Waves").mkdir()
    write_ts(tmp_path / "Waves", waves(2, "ab"), waves(1, "ab"), "Waves")
    write_ts(tmp_path / "Waves", waves(2, "ab", 1), waves(1, "ab", 1), "Waves_eq")
    for suffix in ("TRAIN", "TEST"):
        (tmp_path / f"Flat_{suffix}.tsv").write_text("1\t1\t2\n2\t3\t4\n", encoding="utf-8")
    assert named_parts(["Waves"], str(tmp_path))[0].channels == 2
    assert named_parts(["Waves_eq"], str(tmp_path))[0].channels == 1
    assert named_parts(["Flat"], str(tmp_path))[1].labels == ("1", "2")
    assert named_parts(["Waves"], str(tmp_path / "Waves"))[0].channels == 2
    with pytest.raises(DataError) as caught:
        named_parts(["Wave"], str(tmp_path))
    assert str(caught.value) == (
        f"no Wave_TRAIN.ts and Wave_TEST.ts (or .tsv) in {tmp_path}; put them there "
        '(at hand: Flat, Waves, Waves_eq). Did you mean "Waves"?'
    )


def test_a_folder_of_ones_own_holds_one_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no <name>_TRAIN\.ts"):
        folder_parts(str(tmp_path))
    write_ts(tmp_path, waves(2, "ab"), waves(1, "ab"), "One")
    assert folder_parts(str(tmp_path))[1].channels == 2
    write_ts(tmp_path, waves(2, "ab"), waves(1, "ab"), "Two")
    with pytest.raises(DataError, match=r"holds several sets \(Two, One\)|holds several sets \(One, Two\)"):
        folder_parts(str(tmp_path))
