"""Every page is one document that fetches nothing, in a style that knows dark."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources

import jinja2
import pytest

from scaleprior.pages.environment import data_uri, render
from scaleprior.pages.numbers import count, decimal, share, short, size, some


def test_the_base_page_allows_nothing_from_outside() -> None:
    page = render("scaleprior.pages", "page.html.jinja", {})
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    assert not re.findall(r"(?:src|href)=|https?:|@import|url\(", page)


def test_the_script_is_allowed_by_its_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{{ table_script_hash }} {{ table_script | safe }}"
    monkeypatch.setattr(jinja2, "PackageLoader", lambda name: jinja2.DictLoader({"t.html.jinja": template}))
    said, text = render("any", "t.html.jinja", {}).split(" ", 1)
    assert text == (resources.files("scaleprior.pages") / "templates" / "table.js").read_text()
    assert jinja2.utils.markupsafe.Markup(said).unescape() == (
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    )


def test_numbers_read_as_people_write_them() -> None:
    assert [count(v) for v in (0, 12345, 2.5)] == ["0", "12,345", "2.5"]
    assert [decimal(v) for v in (0, 2, 0.0123, 1.234, 12.34, 123.4, 12345)] == [
        "0",
        "2",
        "0.0123",
        "1.23",
        "12.3",
        "123",
        "12,345",
    ]
    assert [share(v) for v in (0, 0.0004, 0.25, 0.9999, 1)] == ["0.0 %", "< 0.1 %", "25.0 %", "> 99.9 %", "100.0 %"]
    assert [short(v) for v in (5, 1200, 3e6, 0.5)] == ["5", "1.2k", "3M", "0.5"]
    assert [size(v) for v in (12, 1234, 1234567, 2e9)] == ["12 bytes", "1.23 kB", "1.23 MB", "2 GB"]
    assert [some(1, "image"), some(1200, "image"), some(2, "box", "boxes")] == ["1 image", "1,200 images", "2 boxes"]
    assert data_uri(b"\xff\xd8") == "data:image/jpeg;base64,/9g="


def test_half_a_character_does_not_stop_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja2, "PackageLoader", lambda name: jinja2.DictLoader({"t.html.jinja": "{{ name }}"}))
    assert render("any", "t.html.jinja", {"name": "a\ud800b"}).encode("utf-8") == b"a?b"
