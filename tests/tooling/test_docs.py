"""The documentation site: built without a warning, its links lead somewhere, its errors are those of the package."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from spark_dl.options import all_options

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ERRORS = (DOCS / "errors.md").read_text()
# Of Markdown on the repository's page, outside of docs.
FRONT = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]


class Page(HTMLParser):
    """The links and the ids of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.links += [found[name] for name in ("href", "src") if name in found]
        self.ids |= {found[name] for name in ("id", "name") if name in found}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The pages of the site."""
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-d",
        f"{folder}/.cache",
        "docs",
        str(folder),
    ]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-5000:]
    return {path: Page(path) for path in folder.rglob("*.html") if "_static" not in path.parts}


def test_the_site_is_built_without_a_warning(site: dict[Path, Page]) -> None:
    names = {path.name for path in site}
    assert {"index.html", "quickstart.html", "options.html", "api.html", "errors.html"} <= names


def test_links_within_the_site_lead_somewhere(site: dict[Path, Page]) -> None:
    broken = []
    for path, page in site.items():
        for link in page.links:
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if parts.scheme or parts.netloc:
                continue
            if not target.exists():
                broken.append(f"{path.name}: {link}")
            elif parts.fragment and target in site and unquote(parts.fragment) not in site[target].ids:
                broken.append(f"{path.name}: {link} (no such heading)")
    assert not broken


def test_each_option_is_in_the_reference(site: dict[Path, Page]) -> None:
    (ids,) = (page.ids for path, page in site.items() if path.name == "options.html")
    assert {f"option-{option.name}" for option in all_options()} <= ids


@pytest.mark.parametrize("name", FRONT)
def test_links_of_the_front_pages_lead_to_files_and_headings(site: dict[Path, Page], name: str) -> None:
    (folder,) = (path.parent for path in site if path.name == "quickstart.html")
    for link in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", (ROOT / name).read_text()):
        file, heading = link
        assert (ROOT / file).exists(), link
        if heading:
            page = site[folder / Path(file).relative_to("docs").with_suffix(".html")]
            assert heading in page.ids, link


def error_classes() -> dict[str, list[str]]:
    """The bases of all error classes of the package, by their names, wherever they are defined."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "spark_dl").rglob("*.py")]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    bases = {node.name: [ast.unparse(base).rpartition(".")[2] for base in node.bases] for node in classes}
    found = {"SparkDLError": bases["SparkDLError"]}
    while more := {name: of for name, of in bases.items() if name not in found and found.keys() & set(of)}:
        found |= more
    return found


@pytest.mark.parametrize(("name", "bases"), error_classes().items())
def test_each_error_has_a_section_with_its_builtin(name: str, bases: list[str]) -> None:
    section = re.search(rf"^## {name}$(.*?)(?=^## |\Z)", ERRORS, re.MULTILINE | re.DOTALL)
    assert section
    assert bases == ["Exception"] or bases[-1] in section[1].split("\n\n")[1]


def texts() -> Iterator[str]:
    """The texts in the package's source, with "…" for what is filled in."""
    for path in (ROOT / "spark_dl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_each_message_of_the_page_is_one_of_the_package() -> None:
    known = list(texts())
    rows = re.findall(r"^\| `(.*?)` \|", ERRORS, re.MULTILINE)
    assert len(rows) > 50
    patterns = {row: re.compile(".*?".join(map(re.escape, row.split("…"))), re.DOTALL) for row in rows}
    assert [row for row, pattern in patterns.items() if not any(map(pattern.search, known))] == []
