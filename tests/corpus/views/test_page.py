"""The page of a corpus: everything inside, nothing from outside, any name, any number of labels."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scaleprior.corpus import Corpus, LabelSpace, build_index
from scaleprior.corpus.index import ImageRow
from scaleprior.corpus.views.sheet import head_middle_tail
from scaleprior.corpus.views.thumbnails import MAX_BYTES, thumbnail
from tests.corpus.views.test_statistics import build

HOSTILE = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "קפה שחור",
    "猫と犬",
    "x" * 3000,
    "a'b&c<d>",
]


class Elements(HTMLParser):
    """Every element with its attributes, and the text of scripts; raises nothing that a browser would forgive."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        inside = self.found[-1][0] if self.found else ""
        (self.scripts if inside == "script" else self.text).append(data)


def flat_corpus(folder: Path, labels: list[str], images: int) -> Corpus:
    """An index of ``images`` pictures over these labels; picture k has label k modulo their number."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for k in range(images):
        path = folder / f"{k}.png"
        Image.new("RGB", (30, 20), (k % 256, 90, 200)).save(path)
        rows.append(ImageRow(path.name, (labels[k % len(labels)],), "", path.name, 0, path.stat().st_size))
    space = LabelSpace.flat(labels)
    return build_index(rows, folder / "idx", label_space=space, root=folder, name=HOSTILE[0], source={"kind": "files"})


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    corpus = flat_corpus(tmp_path, HOSTILE, 12)
    page = corpus.write_page(tmp_path / "page.html").read_text(encoding="utf-8")
    parsed = Elements(page)
    assert [attributes.get("type") for tag, attributes in parsed.found if tag == "script"] == ["application/json", None]
    assert not [a for _, attributes in parsed.found for a in attributes if a.startswith("on")]
    text = "".join(parsed.text)
    assert all(name in text for name in HOSTILE)
    rows = json.loads(parsed.scripts[0])
    assert sorted(row[0] for row in rows) == sorted(HOSTILE)
    assert all(row[1] == 2 for row in rows)


def test_a_page_needs_nothing_else(tmp_path: Path) -> None:
    page = build(tmp_path).write_page(tmp_path / "page.html").read_text(encoding="utf-8")
    for tag, attributes in Elements(page).found:
        for name in ("src", "href", "data", "srcset", "action"):
            address = attributes.get(name) or "data:"
            assert address.startswith("data:"), (tag, address)
    assert not re.findall(r"@import|url\(", page)
    (policy,) = re.findall(r"Content-Security-Policy\" content=\"(.*?)\">", page)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src &#39;sha256-")


def test_the_sheet_shows_the_first_images_in_hash_order(tmp_path: Path) -> None:
    corpus = build(tmp_path)
    page = corpus.write_page(tmp_path / "page.html").read_text(encoding="utf-8")
    whole = corpus.fraction(images=30)
    labels, offsets = whole.labels()
    keys, cat = whole.keys(), corpus.label_space.index("cat")
    of_cat = [keys[row] for row in range(30) if cat in labels[offsets[row] : offsets[row + 1]]]
    strip = page.split("<bdi>cat</bdi><span>")[1].split("</section>")[0]
    assert re.findall(r'title="(.*?)"', strip) == of_cat[:8]
    shown = base64.b64decode(re.findall(r"base64,(.*?)\"", strip)[0])
    assert Image.open(io.BytesIO(shown)).size == Image.open(tmp_path / "pictures" / of_cat[0]).size


def test_damaged_images_are_passed_over(tmp_path: Path) -> None:
    corpus = build(tmp_path)
    for path in (tmp_path / "pictures").glob("*.png"):
        path.write_bytes(b"x" * path.stat().st_size)
    page = corpus.write_page(tmp_path / "page.html").read_text(encoding="utf-8")
    shown = re.findall(r'title="(\d+\.\w+)"', page)
    assert shown
    assert all(name.endswith("jpg") for name in shown)


def test_a_page_is_made_without_the_images(tmp_path: Path) -> None:
    corpus = build(tmp_path)
    for path in (tmp_path / "pictures").iterdir():
        path.unlink()
    page = corpus.write_page(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "none could be read" in page
    assert "Not readable: 30 (cannot be read)" in page


def test_18000_labels_are_a_page_below_5_megabytes(tmp_path: Path) -> None:
    labels = [f"/m/{k:06x} a name as labels have it, number {k}" for k in range(18_000)]
    tail = np.random.default_rng(0).zipf(1.5, 2_000) % 18_000
    rows = [ImageRow(f"{k}", (labels[j],), "", f"{k}", 0, 10) for k, j in enumerate(tail.tolist())]
    options = {"root": tmp_path, "source": {"kind": "files"}, "verify": False}
    corpus = build_index(rows, tmp_path / "idx", label_space=LabelSpace.flat(labels), **options)
    page = corpus.write_page(tmp_path / "page.html", corpus.statistics(sample=0)).read_bytes()
    assert (
        len(page) + 24 * 8 * MAX_BYTES * 4 / 3 < 5e6
    )  # with as many thumbnails as there may be, as large as they may be
    assert len(json.loads(Elements(page.decode()).scripts[0])) == 18_000
    assert page.count(b"<tr>") < 200  # the script fills the table; a browser lays out a hundred rows


@pytest.mark.parametrize(
    ("rows", "columns", "size"), [(20, 30, (30, 20)), (256, 512, (256, 128)), (50, 900, (125, 50))]
)
def test_a_thumbnail_is_bounded_and_never_enlarged(rows: int, columns: int, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (rows, columns, 3), dtype=np.uint8)
    picture = thumbnail(pixels)
    assert (picture.width, picture.height) == size
    assert Image.open(io.BytesIO(picture.jpeg)).size == size
    assert len(picture.jpeg) <= MAX_BYTES


def test_head_middle_and_tail() -> None:
    assert head_middle_tail(24, 8) == {"all": range(24)}
    assert head_middle_tail(100, 8) == {"head": range(8), "middle": range(46, 54), "tail": range(92, 100)}


def test_a_notebook_shows_the_ends_of_the_table(tmp_path: Path) -> None:
    corpus = flat_corpus(tmp_path, [*HOSTILE, *map(str, range(30))], 36)
    shown = corpus.statistics()._repr_html_()
    assert "16 labels between these are left out" in shown
    assert "<script" not in shown
    assert "<style" not in shown
