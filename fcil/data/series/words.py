"""Class names of labels that are numbers: a word, since figures and text embeddings of names have use for one."""

from __future__ import annotations

from collections.abc import Sequence

_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def class_words(labels: Sequence[str]) -> tuple[str, ...]:
    """Return labels as they are, or a word for each if all are whole numbers from -999 to 999: `24` is twenty-four."""
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        return tuple(labels)
    if any(abs(number) > 999 or number != int(number) for number in numbers):
        return tuple(labels)
    return tuple(number_word(int(number)) for number in numbers)


def number_word(number: int) -> str:
    """Return a whole number from -999 to 999 in words."""
    if number < 0:
        return f"minus {number_word(-number)}"
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + (f"-{_ONES[ones]}" if ones else "")
    hundreds, rest = divmod(number, 100)
    return f"{_ONES[hundreds]} hundred" + (f" {number_word(rest)}" if rest else "")
