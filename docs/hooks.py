"""What mkdocs asks while it builds the site: pages that lie outside docs/, and the reference of the public names.

A page keeps the links that work in the repository. Here they are turned to the site's pages; a link to a file that is
no page (a script, a config) becomes its text, and one to nothing stays as it is, so that the strict build fails on it.

The reference is made from the packages' own lists of public names, by reading their source: a name cannot be missing,
and one without a docstring fails the build. ``tests/house/test_docs.py`` asks the same without mkdocs.
"""

from __future__ import annotations

import ast
import functools
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[1]

OUTSIDE = (
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "model_zoo/README.md",
    "scaleprior/backbones/readers/pickle/README.md",
)
"""Pages of the site that lie elsewhere in the repository."""

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the reference behind the pages that mkdocs.yml names."""
    from mkdocs.exceptions import PluginError

    try:
        places = list(reference_pages())
    except ValueError as e:
        raise PluginError(str(e)) from None
    titles = {p: p.removeprefix("reference/").removesuffix(".md").removeprefix("scaleprior.") for p in places}
    titles["reference/index.md"] = "Overview"
    assert config.nav is not None
    config.nav.append({"Reference": [{titles[place]: place} for place in places]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/ and the generated reference."""
    from mkdocs.structure.files import File

    for place in OUTSIDE:
        files.append(File.generated(config, place, abs_src_path=str(REPOSITORY / place)))
    for place, text in reference_pages().items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    here = page.file.src_uri
    in_repository = here if here in OUTSIDE else f"docs/{here}"

    def turned(match: re.Match[str]) -> str:
        text, target = match.groups()
        path, hash_sign, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", path) or not page.file.abs_src_path:
            return match.group()
        place = posixpath.normpath(posixpath.join(posixpath.dirname(in_repository), path))
        uri = place.removeprefix("docs/")
        if uri in files.src_uris:
            return f"[{text}]({posixpath.relpath(uri, posixpath.dirname(here) or '.')}{hash_sign}{anchor})"
        return text if (REPOSITORY / place).exists() else match.group()

    return _LINK.sub(turned, markdown)


def reference_pages() -> dict[str, str]:
    """A page for each package with public names, and one that lists the pages; site path -> Markdown.

    An object is described once, on the page of the first package that offers it; other pages link to it.

    Raises:
        ValueError: a public name has no docstring.
    """
    missing = [f"{where}: {name}" for package in packages() for name, where in undocumented(package)]
    if missing:
        raise ValueError("public names without a docstring:\n  " + "\n  ".join(missing))
    described: dict[str, str] = {}
    pages, overview = {}, []
    for package in packages():
        purpose = ast.get_docstring(_tree(package)) or ""
        table, texts = [], []
        for name, where in sorted(public_names(package).items(), key=lambda item: item[0].lower()):
            page = described.setdefault(f"{where}.{name}", package)
            table.append(f"| [`{name}`]({page}.md#{where}.{name}) | {_first_sentence(where, name)} |")
            texts += [f"::: {where}.{name}", ""] if page == package else []
        head = [f"# {package}", "", purpose, "", "| name | what it is |", "| --- | --- |", *table, ""]
        pages[f"reference/{package}.md"] = "\n".join([*head, *texts])
        overview.append((package, f"| [`{package}`]({package}.md) | {purpose.splitlines()[0]} |"))
    intro = "# Reference\n\nEvery public name of every package. What is not here may change at any time.\n\n"
    intro += "| package | what it is for |\n| --- | --- |\n"
    # Read from inside to outside, so that an object is described in its room; shown from outside to inside.
    order = sorted(pages, key=lambda place: place.removesuffix(".md").split("."))
    return {
        "reference/index.md": intro + "\n".join(line for _, line in sorted(overview)) + "\n",
        **{place: pages[place] for place in order},
    }


def packages() -> list[str]:
    """Packages with public names: the rooms, then the packages inside them, then the face of all."""
    folders = [path.parent.relative_to(REPOSITORY) for path in (REPOSITORY / "scaleprior").rglob("__init__.py")]
    names = sorted(".".join(folder.parts) for folder in folders)
    names.sort(key=lambda name: (name == "scaleprior", name.count(".")))
    return [name for name in names if public_names(name)]


def public_names(package: str) -> dict[str, str]:
    """Public name -> the module that defines it.

    From the ``if TYPE_CHECKING:`` block of a lazy package (``X as X`` is public, see ``scaleprior/_lazy.py``), or from
    ``__all__`` and the imports of an ordinary one; and what the package itself defines.
    """
    tree = _tree(package)
    listed = _literal_all(tree)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name in listed or (alias.asname == alias.name and node.module != package):
                    names[alias.asname or alias.name] = _definer(str(node.module), alias.name)
    own = (ast.FunctionDef, ast.ClassDef)
    names.update({n.name: package for n in tree.body if isinstance(n, own) and not n.name.startswith("_")})
    # A room is no name of its own, and __version__ explains itself.
    return {n: where for n, where in names.items() if n[0] != "_" and not _source(f"{where}.{n}").exists()}


def undocumented(package: str) -> Iterator[tuple[str, str]]:
    """The public names, and the public methods of public classes, that have no docstring; each with its module.

    A method that overrides one of a base class needs none of its own where the base says what it does.
    """
    for name, where in public_names(package).items():
        node, text = _definition(where, name)
        if not text:
            yield name, where
        for member in node.body if isinstance(node, ast.ClassDef) else ():
            public = isinstance(member, ast.FunctionDef) and not member.name.startswith("_")
            if public and not _method_docstring(where, node, member.name):
                yield f"{name}.{member.name}", where


def _definition(where: str, name: str) -> tuple[ast.stmt | None, str | None]:
    """The statement of a module that defines ``name``, and its docstring: for a value, the string that follows it."""
    body = _tree(where).body
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name and not _overload(node):
            return node, ast.get_docstring(node)
        if name in _assigned(node):
            text = following.value if isinstance(following, ast.Expr) else None
            return node, text.value if isinstance(text, ast.Constant) and isinstance(text.value, str) else None
    return None, None


def _overload(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """Whether a definition is of types alone: the one that follows it says what the function does."""
    return any(isinstance(each, ast.Name) and each.id == "overload" for each in node.decorator_list)


def _method_docstring(where: str, node: ast.ClassDef, method: str) -> str | None:
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == method and ast.get_docstring(member):
            return ast.get_docstring(member)
    for base in node.bases:
        name = base.value if isinstance(base, ast.Subscript) else base
        if isinstance(name, ast.Name):
            origin = _definer(where, name.id)
            parent, _ = _definition(origin, name.id)
            text = _method_docstring(origin, parent, method) if isinstance(parent, ast.ClassDef) else None
            if text:
                return text
    return None


def _first_sentence(where: str, name: str) -> str:
    """What the docstring of a public name opens with, on one line that fits a table."""
    _, text = _definition(where, name)
    line = " ".join((text or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", line)[0].replace("|", "\\|")


def _assigned(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _literal_all(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if "__all__" in _assigned(node) and isinstance(node, ast.Assign) and isinstance(node.value, ast.List):
            return list(ast.literal_eval(node.value))
    return []


def _definer(module: str, name: str) -> str:
    """The module that defines ``name``, behind packages that only hand it on."""
    tree = _tree(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("scaleprior"):
            handed_on = [alias.name for alias in node.names if name == (alias.asname or alias.name)]
            if handed_on:
                return _definer(str(node.module), handed_on[0])
    return module


def _source(module: str) -> Path:
    path = REPOSITORY.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _tree(module: str) -> ast.Module:
    return _parsed(_source(module))


@functools.cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
