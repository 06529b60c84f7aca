"""Builds the site of these pages in build/docs/site, from a copy of them in build/docs/pages.

python docs/build_site.py            # a dead link, or a page that no menu has, is an error: exit code 1
python docs/build_site.py --serve    # the same, shown at http://127.0.0.1:8000

Needs the extra `docs` (pip install -e '.[docs]'). Pages link to code, folders and results as on a code host; in the
copy such a link leads to a page that shows the file, or lists the folder.
"""

from __future__ import annotations

import ast
import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build" / "docs"
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    **{str(p.relative_to(ROOT)): str(p.relative_to(ROOT / "docs")) for p in ROOT.glob("docs/**/*.md")},
    **{f"results/{p.name}": f"measured/{p.name}" for p in ROOT.glob("results/*.md")},
    "results/README.md": "measured/index.md",
    "docs/examples/analysis.ipynb": "notebook.md",
}
"""Place of a file of the repository in the site."""
PICTURES = {".png", ".svg"}
LANGUAGES = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".css": "css"}
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
PIPE = re.compile(r"`([^`\n]*\\\|[^`\n]*)`")
"""Code with an escaped pipe, in a table: a code host drops the escape, and Python-Markdown shows it."""
NO_SEARCH = "---\nsearch: {exclude: true}\n---\n"


class Site:
    """Copy of the pages, with everything that they link to."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder
        self.placed: dict[str, str] = {}
        """Place in the site of each file of the repository that has one."""
        self.dead: list[str] = []
        """Links that lead nowhere."""

    def write(self) -> None:
        """Write all pages."""
        for source in PAGES:
            self.place(source)

    def place(self, source: str) -> str:
        """Return the place of a file or folder of the repository in the site, written before that if it is not there.

        Args:
            source: path from the root of the repository.
        """
        if source in self.placed:
            return self.placed[source]
        path = self.root / source
        if (path / "README.md").is_file():
            return self.place(f"{source}/README.md")
        where = PAGES.get(source) or self._other(path, source)
        self.placed[source] = where
        target = self.folder / where
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in PICTURES:
            shutil.copyfile(path, target)
        elif path.is_dir():
            target.write_text(self._listing(path, source, where), encoding="utf-8")
        elif path.suffix == ".md":
            text = self._linked(path.read_text(encoding="utf-8"), source, where)
            if source not in PAGES and path.name == "README.md":
                text += self._listing(path.parent, os.path.dirname(source), where).partition("/`\n")[2]
            target.write_text(text, encoding="utf-8")
        elif path.suffix == ".ipynb":
            target.write_text(notebook(path.read_text(encoding="utf-8")), encoding="utf-8")
        else:
            text = path.read_text(encoding="utf-8")
            shown = (
                f"{NO_SEARCH}# {path.name}\n\n`{source}`\n\n````{LANGUAGES.get(path.suffix, 'text')}\n{text}\n````\n"
            )
            target.write_text(shown, encoding="utf-8")
        return where

    @staticmethod
    def _other(path: Path, source: str) -> str:
        if path.suffix in PICTURES:
            return source.removeprefix("docs/")
        return (
            f"source/{source}/index.md"
            if path.is_dir()
            else f"source/{source.removesuffix('.md')}.md".replace("/README.md", "/index.md")
        )

    def _linked(self, text: str, source: str, where: str) -> str:
        """Return a page with its links as the site has them; those in blocks of code stay."""
        parts = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
        parts[::2] = [PIPE.sub(_code_with_pipe, part) for part in parts[::2]]
        parts[::2] = [LINK.sub(lambda found: self._link(found[1], source, where), part) for part in parts[::2]]
        return "".join(parts)

    def _link(self, link: str, source: str, where: str) -> str:
        path, hash_, anchor = link.partition("#")
        if "://" in link or not path:
            return link
        target = os.path.normpath(os.path.join(os.path.dirname(source), path))
        if target.startswith("..") or not (self.root / target).exists():
            self.dead.append(f"{source}: {link}")
            return link
        return os.path.relpath(self.place(target), os.path.dirname(where) or ".") + hash_ + anchor

    def _listing(self, folder: Path, source: str, where: str) -> str:
        """Return a page that lists a folder; of the package's the names alone, of others with the files."""
        lines = [f"{NO_SEARCH}# {folder.name}\n\n`{source}/`\n"]
        for path in sorted(folder.iterdir()):
            if path.name.startswith((".", "__pycache__", "README.md")):
                continue
            name, file = f"`{path.name}`", str(path.relative_to(self.root))
            if path.is_file() and (not source.startswith("fcil") or file in self.placed):
                name = f"[{name}]({os.path.relpath(self.place(file), os.path.dirname(where))})"
            lines.append(f"- {name} {first_line(path)}".rstrip())
        return "\n".join(lines) + "\n"


def _code_with_pipe(found: re.Match[str]) -> str:
    return f"<code>{html.escape(found[1]).replace(chr(92) + '|', '&#124;')}</code>"


def notebook(text: str) -> str:
    """Return the cells of a notebook as a page: prose as it is, code in blocks."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(t if kind == "markdown" else f"```python\n{t}\n```" for kind, t in cells) + "\n"


def first_line(path: Path) -> str:
    """Return what a program says of itself first; nothing for another file."""
    if path.suffix != ".py":
        return ""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def stage(root: Path = ROOT, out: Path = OUT) -> list[str]:
    """Write pages and settings below `out`, and return the links that lead nowhere."""
    shutil.rmtree(out, ignore_errors=True)
    site = Site(root, out / "pages")
    site.write()
    for name, target in {"mkdocs.yml": out, "site.css": out / "pages"}.items():
        shutil.copyfile(root / "docs" / name, target / name)
    return site.dead


def outside_nav(config: str, pages: set[str]) -> list[str]:
    """Return the pages that the menu of the settings does not have; those that show code need not be there."""
    return sorted(page for page in pages if not page.startswith("source/") and f" {page}\n" not in config)


def same_address(pages: set[str]) -> list[str]:
    """Return the pages that would lie at the address of another, such as `a.md` beside `a/index.md`."""
    return sorted(page for page in pages if f"{page.removesuffix('.md')}/index.md" in pages)


def build(out: Path = OUT) -> int:
    """Build the site, and return the exit code."""
    dead = stage(out=out)
    config = (out / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {str(path.relative_to(out / "pages")) for path in (out / "pages").rglob("*.md")}
    wrong = [f"dead link: {link}" for link in dead]
    wrong += [f"not in nav: {page}" for page in outside_nav(config, pages)]
    wrong += [f"same address as another page: {page}" for page in same_address(pages)]
    if wrong:
        print("\n".join(wrong))
        return 1
    if importlib.util.find_spec("material") is None:
        print("the site needs the extra docs: pip install -e '.[docs]'")
        return 2
    return built(out)


def built(out: Path = OUT) -> int:
    """Build the site of the pages that lie in `out`, and return the exit code; what is wrong is printed."""
    # Not --quiet, under which warnings are not counted and nothing is strict.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(out / "mkdocs.yml")]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        print("\n".join(line for line in done.stderr.splitlines() if not line.startswith("INFO")))
    return done.returncode


def serve(port: int = 8000) -> None:
    """Show the built site on this machine until Ctrl-C."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(OUT / "site"))
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        print(f"http://127.0.0.1:{server.server_port}")
        server.serve_forever()


if __name__ == "__main__":
    code = build()
    if code == 0:
        print(OUT / "site" / "index.html")
        if "--serve" in sys.argv:
            serve()
    sys.exit(code)
