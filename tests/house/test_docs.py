"""What the pages name is there: files, headings, commands, options, targets; and every public name says what it is."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import scaleprior
from scaleprior._lazy import declared_exports
from scaleprior.cli import build_parser
from tests.house.test_rooms import ALLOWED, FLOOR, ORDER, SIDE_BY_SIDE

REPO = Path(__file__).resolve().parents[2]


def _hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", REPO / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = _hooks()
PARSER = build_parser()
PAGES = sorted({REPO / "README.md", *(REPO / "docs").glob("*.md"), *(REPO / place for place in HOOKS.OUTSIDE)})
NAMES = [str(page.relative_to(REPO)) for page in PAGES]


def _prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def _anchors(page: Path) -> set[str]:
    """The ids of headings, as GitHub and mkdocs both write them for plain headings."""
    titles = re.findall(r"^#+ (.+)$", _prose(page), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title.lower())).strip("-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if re.match(r"[a-z]+:", target) or target == "reference/index.md":  # the reference is made with the site
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in _anchors(found), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_files_that_are_named_exist(page: Path) -> None:
    """Words in backticks that are paths from the top of the repository, or inside the package."""
    tops = "|".join(sorted(p.name for p in (REPO / "scaleprior").iterdir() if p.is_dir() and p.name[0] != "_"))
    outer = "scaleprior|docs|tests|configs|model_zoo|tools|benchmarks|examples|\\.ci"
    for word in re.findall(rf"`((?:{outer}|{tops})/[\w./-]+)`", _prose(page)):
        blank = re.search(r"\b(NAME|[A-Z_]*DIR)\b", word)  # to be filled in
        if not blank and word != "configs/common/":  # Detectron2's
            assert (REPO / word).exists() or (REPO / "scaleprior" / word).exists(), f"{page.name} names {word}"


def _commands(page: Path) -> Iterator[list[str]]:
    """Every ``scaleprior ...`` in code, as words; ``a|b|c`` gives one of each."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *re.findall(r"`([^`\n]+)`", _prose(page))]:
        match = re.match(r"\s*(?:\$ )?scaleprior ([a-z][^#`\\]*)$", line.replace("\\|", "|").split("#")[0])
        if match:
            yield re.sub(r"[\[\]]", " ", match.group(1)).split(" | ")[0].split()


def _choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(found[0].choices) if found else {}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_and_options_that_are_named_exist(page: Path) -> None:
    for words in _commands(page):
        parsers = [PARSER]
        for word in words:
            if not _choices(parsers[0]):
                break
            names = word.rstrip(",;.:").split("|")
            unknown = [name for name in names if name not in _choices(parsers[0])]
            assert not unknown, f"{page.name}: scaleprior {' '.join(words)}"
            parsers = [_choices(parsers[0])[name] for name in names]
        known = {option for parser in parsers for action in parser._actions for option in action.option_strings}
        for option in re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", " ".join(words)):
            assert option in known | {"--debug"}, f"{page.name}: scaleprior {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_make_targets_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    code = re.findall(r"^make ([^#\n]+)|`make ([^`]+)`", page.read_text(encoding="utf-8"), re.MULTILINE)
    for line in (a or b for a, b in code):
        assert {word for word in shlex.split(line) if re.fullmatch(r"[a-z0-9]+", word)} <= targets, line


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_lists_begin_after_an_empty_line(page: Path) -> None:
    """GitHub needs none, the site does: without it a list is a paragraph with dashes in it."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"^(?![-#| ]|\d+\.).+\n- .*", text, flags=re.MULTILINE) == []


def test_every_public_name_has_a_docstring() -> None:
    missing = [f"{where}: {name}" for package in HOOKS.packages() for name, where in HOOKS.undocumented(package)]
    assert not missing


def test_a_name_without_a_docstring_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "scaleprior"
    package.mkdir()
    head = '"""P."""\n__all__ = ["A", "B", "C", "f", "g"]\n'
    (package / "__init__.py").write_text(head + "from scaleprior.m import A, B, C, f, g\n")
    methods = '    def told(self):\n        """T."""\n    def silent(self): ...\n    def _own(self): ...\n'
    a_class, heir = f'class A:\n    """A."""\n{methods}', 'class B(A):\n    """B."""\n    def told(self): ...\n'
    typed = '@overload\ndef g(x: int): ...\ndef g(x):\n    """G."""\n'
    (package / "m.py").write_text(f'{a_class}{heir}C = 1\nD = 2\n"""D."""\ndef f(): ...\n{typed}')
    monkeypatch.setattr(HOOKS, "REPOSITORY", tmp_path)
    assert [name for name, _ in HOOKS.undocumented("scaleprior")] == ["A.silent", "C", "f"]
    with pytest.raises(ValueError, match=r"scaleprior\.m: A\.silent\n  scaleprior\.m: C\n  scaleprior\.m: f$"):
        HOOKS.reference_pages()


def test_the_reference_has_the_names_that_the_packages_have() -> None:
    """The site reads source; here the packages themselves are asked."""
    for package in HOOKS.packages():
        if package != "scaleprior.d2":  # which imports Detectron2
            modules = {n for n, where in declared_exports_of(package).items() if where == f"{package}.{n}"}
            shown = set(importlib.import_module(package).__all__) - modules - {"__version__"}
            assert set(HOOKS.public_names(package)) == shown, package


def declared_exports_of(package: str) -> dict[str, str]:
    importlib.import_module(package)
    return declared_exports(package)


def test_every_page_is_in_the_menu() -> None:
    menu = yaml.safe_load((REPO / "mkdocs.yml").read_text())["nav"]
    listed = {place for entry in menu for value in entry.values() for place in _places(value)}
    assert {page.name for page in (REPO / "docs").glob("*.md")} | set(HOOKS.OUTSIDE) == listed


def _places(value: str | list[dict[str, str]]) -> list[str]:
    return [value] if isinstance(value, str) else [place for entry in value for place in entry.values()]


def test_the_citation_agrees_with_the_package() -> None:
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text())
    assert citation["version"] == scaleprior.__version__
    assert citation["license"] == "Apache-2.0"
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_the_architecture_has_the_rooms_that_the_imports_are_held_to() -> None:
    table = (REPO / "docs" / "architecture.md").read_text().split("## Rooms")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines() if row.startswith("| `")]
    above = set(ORDER) | set(SIDE_BY_SIDE)
    for name, _, imports, _ in rows:
        room = name.strip("`")
        expected = ALLOWED[room] - FLOOR
        named = set(re.findall(r"`(\w+)`", imports)) - {"config"}
        assert (above | {"laws"} if imports == "all of the above" else named) == expected, room
        assert ("without `config`" in imports) == ("config" not in ALLOWED[room]), room
    assert {row[0].strip("`") for row in rows} == set(ALLOWED) - {"config", "pages"}


def test_every_promise_of_security_names_a_test_that_is_there() -> None:
    text = (REPO / "SECURITY.md").read_text(encoding="utf-8")
    promised = text[text.index("## What is promised") : text.index("## What is not promised")]
    rows = [
        line for line in promised.splitlines() if line.startswith("| ") and not line.startswith(("| promise", "| ---"))
    ]
    assert len(rows) > 25
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row.rpartition(" | ")[2])
        assert named, f"no test holds this: {row}"
        for file, name in named:
            tests = re.findall(r"^def (test_\w+)", (REPO / file).read_text(encoding="utf-8"), re.MULTILINE)
            assert tests
            assert not name or name in tests, f"{file} has no {name}"
