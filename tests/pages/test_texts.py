"""Names of others in Markdown, HTML and pictures: a reader of each finds the text and nothing that it would do."""

from __future__ import annotations

import html.parser
import re
import warnings

import jinja2
import pytest

from scaleprior.pages.charts import Bars, bar_chart
from scaleprior.pages.environment import render
from scaleprior.pages.texts import code, fenced, in_picture, plain, visible
from scaleprior.wording import printable

markdown_it = pytest.importorskip("markdown_it", reason="rich brings it")

HOSTILE = [
    "a|b", "`x`", "``a` b```", "[x](javascript:alert(1))", "![x](http://evil/x.png)", "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>", "</td></table>", "<!-- x", "<?php", "&lt;b&gt;", "&#60;", "*b*", "__b__", "_b_",
    "~~s~~", "$x$", "$$x$$", "\\", "\\|", "a\\", "# head", "> quote", "- item", "+ item", "1. item", "7) item", "---",
    "***", "===", "```", "~~~", "a\n\n# head", "a\n| b |", "[x]: http://evil", "    code", "\ttab", "<http://evil>",
    "\x1b[31mred", "\u202eabc", "a  \nb", "|", "|---|", "{{ 7*7 }}", "{% raw %}", "'\"", '" onmouseover="alert(1)',
    "]]>", "</script>", "\x00", "\x9b2J",
]  # fmt: skip


def tokens(text: str) -> list[tuple[str, str]]:
    """(kind, content) of what CommonMark with GitHub's tables and struck text makes of a text, to the leaves."""
    found = []
    for token in markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text):
        found += [(leaf.type, leaf.content) for leaf in token.children or [token]]
    return found


@pytest.mark.parametrize("name", HOSTILE)
def test_markdown_shows_it(name: str) -> None:
    shown = re.sub(r"\s*\n+\s*", " ", name)
    page = f"| a | b |\n| --- | --- |\n| {plain(name)} | end |\n\n- {plain(name)}\n- end\n"
    found = tokens(page)
    expected = tokens("| a | b |\n| --- | --- |\n| x | end |\n\n- x\n- end\n")
    assert [kind for kind, _ in found if kind != "text"] == [kind for kind, _ in expected if kind != "text"]
    texts = "\n".join(content for kind, content in found if kind == "text")
    said = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in shown)
    assert texts.replace("\n", "").count(said.strip()) >= 2  # as it is spelled, in the cell and in the item
    (inside,) = [content for kind, content in tokens(f"{code(name)} end") if kind == "code_inline"]
    assert inside.strip() == printable(name).strip()
    blocks = tokens(f"{fenced(name)}\n\nend")
    assert [kind for kind, _ in blocks if kind in ("fence", "text")] == ["fence", "text"]


def test_ordinary_sentences_are_left_alone() -> None:
    for text in (
        "R-50: +2.30 AP per tenfold images (90 % interval -0.1 to +4.2; probability of a gain 0.99): more data helps.",
        "R_50_FPN < 0.1 % > 99 %, a & b, -3.5, #1 of 2, x@y, 3.5. e.g. this", "-3.5", "+2.3", "2017", "a - b", "",
    ):  # fmt: skip
        assert plain(text) == text


class _Tags(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, [name for name, _ in attrs]))


_PAGE = """{% extends "page.html.jinja" %}{% from "labels.html.jinja" import label_table %}
{% block title %}{{ name }}{% endblock %}
{% block main %}<p title="{{ name }}">{{ name }} {{ [name] }} {{ {name: name} }}</p>{{ chart | safe }}
{{ label_table("label", ["name", "n"], [[name, 3]], 1) }}{% endblock %}"""


@pytest.mark.parametrize("name", HOSTILE)
def test_html_shows_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tags and attributes as for a harmless name, and no letter that a browser obeys."""
    loaders = {"shared": jinja2.PackageLoader("scaleprior.pages"), "own": jinja2.DictLoader({"t.html.jinja": _PAGE})}
    monkeypatch.setattr(jinja2, "PackageLoader", lambda name: loaders["own" if name == "any" else "shared"])

    def page(name: str) -> str:
        chart = bar_chart([name], Bars([1.0], name), x_title=name, y_title=name, label=name)
        return render("any", "t.html.jinja", {"name": name, "chart": chart})

    found = page(name)
    assert _Tags(found).tags == _Tags(page("x")).tags
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", found)
    assert visible("می\u200cخواهم \U0001f469\u200d\U0001f467") == "می\u200cخواهم \U0001f469\u200d\U0001f467"


def test_markdown_templates_escape_all_but_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "{{ name }} {{ [name] }} {{ name | code }} {{ number }} {{ 'x*' if number }}{{ 'y' if not number }}"
    monkeypatch.setattr(jinja2, "PackageLoader", lambda name: jinja2.DictLoader({"t.md.jinja": text}))
    assert render("any", "t.md.jinja", {"name": "a|b", "number": -1.5}) == "a\\|b \\['a\\|b'] `a|b` -1.5 x\\*"


@pytest.mark.parametrize("name", ["$x$", r"$\frac$", "$", "$$", r"\$5", "_hidden", "\x1b[31m", "a$b$c$", "100 %"])
def test_a_picture_shows_it(name: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    ax = figure.subplots()
    ax.plot([1], [1], label=in_picture(name))
    ax.set_title(in_picture(name))
    legend = ax.legend()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.canvas.draw()
    assert len(legend.get_texts()) == 1
    text, is_math = ax.title._preprocess_math(ax.title.get_text())  # pyright: ignore[reportAttributeAccessIssue]
    assert not is_math
    assert text.strip() == (name if name.isprintable() else "\\x1b[31m")
