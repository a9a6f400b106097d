"""Templates of pages: a room's own, on the base and in the style that all pages share.

A page is one document: styles, pictures and scripts are inside, and its Content-Security-Policy forbids a browser to
fetch anything or to run a script that is not one of ours. What comes from a user (names of labels, paths) is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

import jinja2

from scaleprior.pages.numbers import count, decimal, share, size

__all__ = ["data_uri", "render"]


def render(
    package: str, template: str, context: Mapping[str, Any], *, filters: Mapping[str, Callable[..., str]] | None = None
) -> str:
    """A template of a package's folder ``templates``, filled in; ``*.html.jinja`` escapes what it is given.

    Args:
        package: name of the package, e.g. ``scaleprior.study.report``. Its templates may extend the shared
            ``page.html.jinja``.
        template: file name.
        context: all that the template names; a name that is missing is an error.
        filters: further filters, or others in place of those of ``pages.numbers``.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader("scaleprior.pages")]),
        autoescape=jinja2.select_autoescape(["html.jinja"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(count=count, decimal=decimal, share=share, size=size)
    environment.filters.update(filters or {})
    environment.globals["table_script"], environment.globals["table_script_hash"] = _script("table.js")
    page = environment.get_template(template).render(context)
    return page.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair, which JSON may hold, is no text


def data_uri(content: bytes, kind: str = "image/jpeg") -> str:
    """A file as an address that holds it: ``data:image/jpeg;base64,...``."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _script(name: str) -> tuple[str, str]:
    """A script's text, and the source expression that lets a policy allow it and no other."""
    text = (resources.files("scaleprior.pages") / "templates" / name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return text, f"'sha256-{digest}'"
