"""Templates of pages: a room's own, on the base and in the style that all pages share.

A page is one document: styles, pictures and scripts are inside, and its Content-Security-Policy forbids a browser to
fetch anything or to run a script that is not one of ours. What comes from a user (names of labels, paths) is escaped:
in HTML and in Markdown it is text, and what would turn the order of its letters round is spelled out.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

import jinja2
from jinja2.utils import markupsafe

from scaleprior.pages.numbers import count, decimal, share, size
from scaleprior.pages.texts import code, fenced, plain, visible

__all__ = ["data_uri", "render"]


def render(
    package: str, template: str, context: Mapping[str, Any], *, filters: Mapping[str, Callable[..., str]] | None = None
) -> str:
    """A template of a package's folder ``templates``, filled in; HTML and Markdown escape what they are given.

    Args:
        package: name of the package, e.g. ``scaleprior.study.report``. Its templates may extend the shared
            ``page.html.jinja``.
        template: file name, ``*.html.jinja`` or ``*.md.jinja``.
        context: all that the template names; a name that is missing is an error.
        filters: further filters, or others in place of those of ``pages.numbers``.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader("scaleprior.pages")]),
        autoescape=jinja2.select_autoescape(["html.jinja"]),
        finalize=functools.partial(_shown, escape=plain if template.endswith(".md.jinja") else visible),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_function"] = _dumped
    environment.filters.update(code=_markup(code), fenced=_markup(fenced))
    environment.filters.update(count=count, decimal=decimal, share=share, size=size)
    environment.filters.update(filters or {})
    environment.globals["table_script"], environment.globals["table_script_hash"] = _script("table.js")
    page = environment.get_template(template).render(context)
    return page.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair, which JSON may hold, is no text


def _shown(value: object, *, escape: Callable[[str], str]) -> object:
    """What a template writes where it names a value; what it, or a filter of ours, made itself stays."""
    if isinstance(value, (markupsafe.Markup, jinja2.Undefined, int, float)):
        return value
    return escape(str(value))


def _markup(made: Callable[[str], str]) -> Callable[[str], markupsafe.Markup]:
    return lambda text: markupsafe.Markup(made(text))


def _dumped(value: Any, **options: Any) -> str:
    """JSON of a table's rows, whose script shows texts as they are."""
    return json.dumps([[visible(cell) if isinstance(cell, str) else cell for cell in row] for row in value], **options)


def data_uri(content: bytes, kind: str = "image/jpeg") -> str:
    """A file as an address that holds it: ``data:image/jpeg;base64,...``."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _script(name: str) -> tuple[str, str]:
    """A script's text, and the source expression that lets a policy allow it and no other."""
    text = (resources.files("scaleprior.pages") / "templates" / name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return text, f"'sha256-{digest}'"
