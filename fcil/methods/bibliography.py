"""BibTeX entries of methods, from the papers that their files name; no file is imported.

A strategy names its paper in the class variable `paper`, a synthesizer or distiller in the sentence of its docstring
that begins with "Paper:". Both read: authors, "title", venue and year, arXiv number.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from fcil.config.registry import files_in

PACKAGES = {"synthesizer": "fcil.synthesis", "distiller": "fcil.distillers"}
"""Options of a strategy whose value is another method, and the package of its file."""
JOURNALS = {"PNAS", "Nature Machine Intelligence"}
TITLE = "fcil: federated class-incremental learning, simulated"
FLOWER = 'Beutel et al., "Flower: A Friendly Federated Learning Research Framework", 2020, arXiv:2007.14390'
"""The framework that every run stands on."""
_QUOTED = re.compile(r'(?P<authors>[^"]+), "(?P<title>[^"]+)"(?P<rest>.*)')
_SHORT = re.compile(r"(?P<authors>[^,]+), (?P<title>[\w-]+), (?P<rest>.*)")
_YEAR = re.compile(r"(?P<venue>.*?)\b(?P<year>(?:19|20)\d\d)\b")
_ARXIV = re.compile(r"arXiv:((\d\d)(?:0[1-9]|1[0-2])\.\d{4,5})")
_SENTENCE = re.compile(r"^Paper: (.*?)(?:\.\s+(?=[A-Z])|\.\n|\.$|\n\n)", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"github\.com/([\w.-]+/[\w.-]*\w)(?:\s@\s([0-9a-f]+))?")
_SPECIAL = re.compile(r"[&%$#_{}~^\\]")


class Reference(NamedTuple):
    """A paper; parts that its text does not tell are empty."""

    text: str
    authors: str
    title: str
    venue: str
    year: str
    arxiv: str

    @property
    def key(self) -> str:
        """First author, year and first long word of the title."""
        words = [*re.findall(r"[a-z]{4,}", (self.title or self.text).lower()), "paper"]
        return f"{re.sub(r'[^a-z]', '', self.authors.split()[0].lower()) or 'method'}{self.year}{words[0]}"

    def bibtex(self) -> str:
        """Return the entry; what could not be told apart is a note."""
        kind, place = "misc", "howpublished"
        if self.title and self.venue:
            kind, place = ("article", "journal") if self.venue in JOURNALS else ("inproceedings", "booktitle")
        listed = re.sub(r" et al\.$", " and others", self.authors).replace(", ", " and ")
        lines = {
            "author": _escaped(listed),
            "title": f"{{{_escaped(self.title)}}}" if self.title else "",
            place: _escaped(self.venue),
            "year": self.year,
            "eprint": self.arxiv,
            "archiveprefix": "arXiv" if self.arxiv else "",
            "note": "" if self.title else _escaped(self.text),
        }
        told = ",\n".join(f"  {name} = {{{value}}}" for name, value in lines.items() if value)
        return f"@{kind}{{{self.key},\n{told}\n}}"


def references(text: str) -> Iterator[Reference]:
    """Yield the papers that a text names, apart by semicolons; a remark without a paper of its own is left out."""
    for part in (" ".join(part.split()) for part in text.split("; ")):
        named = _QUOTED.match(part) or _SHORT.match(part)
        arxiv, rest = _ARXIV.search(part), _ARXIV.sub("", named["rest"] if named else part)
        year = _YEAR.match(rest)
        if named is None and arxiv is None and year is None:
            continue
        yield Reference(
            text=part,
            authors=named["authors"] if named else part.partition(",")[0],
            title=named["title"] if named else "",
            venue=year["venue"].strip(" ,()") if named and year else "",
            year=year["year"] if year else f"20{arxiv[2]}" if arxiv else "",
            arxiv=arxiv[1] if arxiv else "",
        )


def paper(source: str) -> str:
    """Return what the file of a method says of its paper; an empty text where it names none."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and [getattr(t, "id", "") for t in node.targets] == ["paper"]:
            value = _text(node.value)
            if value is not None:
                return value
    sentence = _SENTENCE.search(ast.get_docstring(tree) or "")
    return " ".join(sentence[1].split()) if sentence else ""


def codes(source: str) -> list[tuple[str, str]]:
    """Return repository and commit of the released code that the docstring of a file names, in its order."""
    docstring = ast.get_docstring(ast.parse(source)) or ""
    return list(dict.fromkeys((found[1], found[2] or "") for found in _CODE.finditer(docstring)))


def used(options: object) -> Iterator[tuple[str, str]]:
    """Yield kind and name of the other methods that the settings of a strategy name, such as its synthesizer."""
    for key, value in options.items() if isinstance(options, Mapping) else ():
        if key in PACKAGES:
            yield key, str(next(iter(value), "")) if isinstance(value, Mapping) else str(value)
        yield from used(value)


def platform(version: str) -> str:
    """Return the entry of this platform."""
    lines = f"  author = {{{{The fcil contributors}}}},\n  title = {{{{{TITLE}}}}},\n  version = {{{version}}}"
    return f"@software{{fcil,\n{lines}\n}}"


def entries(sources: Iterable[tuple[str, Mapping[str, Any]]], version: str) -> list[str]:
    """Return the entries of some runs' methods, of Flower and of this platform, each once.

    Args:
        sources: text of the strategy's file and section `strategy` of the settings, of each run.
        version: of this platform.
    """
    texts: list[str] = []
    for source, settings in sources:
        texts.append(paper(source))
        for kind, name in used(settings):
            file = files_in(PACKAGES[kind]).get(name)
            texts.append(paper(file.read_text(encoding="utf-8")) if file else "")
    named = [reference for text in [*texts, FLOWER] for reference in references(text)]
    return [*dict.fromkeys(reference.bibtex() for reference in named), platform(version)]


def _text(node: ast.expr) -> str | None:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def _escaped(text: str) -> str:
    """Return a text in which TeX reads no command."""
    words = {"\\": r"\textbackslash{}", "~": r"\~{}", "^": r"\^{}"}
    return _SPECIAL.sub(lambda found: words.get(found[0], f"\\{found[0]}"), text)
