"""What a build finds in its images: what is turned, what is out of order, and what the index keeps of that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from scaleprior.corpus import Corpus
from scaleprior.errors import UserError
from tests.corpus.images.files import TURNS, exif, insert, noise, pillow, save

PLAIN = save(noise(), "JPEG")
SPARE = insert(PLAIN, len(PLAIN) - 2, b"\x11" * 16)
KIND = "images with spare bytes before a marker, read nevertheless"


def source(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def photographs(folder: Path, orientation: int = 6) -> Path:
    """Three photographs, one of them with a tag; all of one size in bytes, so that only the tag's value can differ."""
    plain = save(noise(), "JPEG", exif=exif(1))
    return source(
        folder, {"a/0.jpg": plain, "a/1.jpg": save(noise(), "JPEG", exif=exif(orientation)), "b/2.jpg": plain}
    )


def as_older(index: Path) -> Corpus:
    """The index as it was written before orientations were applied."""
    facts = json.loads((index / "corpus.json").read_text())
    for key in ("orientation", "turned", "warnings", "other_files"):
        facts.pop(key, None)
    (index / "corpus.json").write_text(json.dumps(facts))
    return Corpus.open(index)


def test_turned_photographs_are_upright_counted_and_part_of_the_identity(tmp_path: Path) -> None:
    turned = Corpus.build(photographs(tmp_path / "src"), tmp_path / "i")
    plain = Corpus.build(photographs(tmp_path / "plain", orientation=1), tmp_path / "j")
    assert (turned.facts["orientation"], turned.facts["turned"], turned.upright) == ("applied", 1, True)
    assert (plain.facts["orientation"], plain.facts["turned"], plain.upright) == ("applied", 0, True)
    assert turned.fingerprint != plain.fingerprint
    # Without a turned image the identity is that of an index from before; --no-verify does not look.
    unseen = Corpus.build(tmp_path / "src", tmp_path / "k", verify=False)
    assert unseen.fingerprint == plain.fingerprint
    assert "turned" not in unseen.facts
    assert unseen.upright
    fraction = turned.fraction(images=3)
    for number, key in enumerate(fraction.keys()):
        stored = pillow((tmp_path / "src" / key).read_bytes())
        expected = TURNS[6](stored) if key == "a/1.jpg" else stored
        assert np.array_equal(fraction.decode(number), expected)
        assert np.array_equal(fraction.decode(number, order="BGR"), expected[..., ::-1])
    fraction.save(tmp_path / "saved.parquet")
    saved = Corpus.open(tmp_path / "saved.parquet")
    assert (saved.upright, saved.fingerprint) == (True, turned.fingerprint)


def test_an_older_index_goes_on_with_stored_pixels(tmp_path: Path) -> None:
    Corpus.build(photographs(tmp_path / "src"), tmp_path / "i")
    older = as_older(tmp_path / "i")
    assert not older.upright
    fraction = older.fraction(images=3)
    for number, key in enumerate(fraction.keys()):
        assert np.array_equal(fraction.decode(number), pillow((tmp_path / "src" / key).read_bytes()))
    fraction.save(tmp_path / "saved.parquet")
    assert not Corpus.open(tmp_path / "saved.parquet").upright


def test_files_out_of_order_are_read_counted_by_kind_and_named(tmp_path: Path) -> None:
    root = source(
        tmp_path / "src", {"a/0.jpg": PLAIN, "a/1.jpg": SPARE, "b/2.jpg": SPARE, "b/3.png": save(noise(), "PNG") + b"x"}
    )
    corpus = Corpus.build(root, tmp_path / "i")
    assert len(corpus) == 4
    assert corpus.facts["skipped"]["count"] == 0
    assert corpus.facts["warnings"] == {
        KIND: {"count": 2, "examples": ["a/1.jpg", "b/2.jpg"]},
        "images with bytes after the end, read nevertheless": {"count": 1, "examples": ["b/3.png"]},
    }
    strict = Corpus.build(root, tmp_path / "j", strict=True, max_skipped=0.8)
    assert (len(strict), strict.facts["strict"], strict.facts["warnings"]) == (1, True, {})
    assert strict.facts["skipped"]["reasons"] == {"corrupt or truncated JPEG": 2, "PNG with bytes after the end": 1}
    with pytest.raises(UserError, match=r"3 of 4 images \(75.0%\) cannot be used"):
        Corpus.build(root, tmp_path / "k", strict=True)
    with pytest.raises(UserError, match="strict=True asks for images that are not decoded"):
        Corpus.build(root, tmp_path / "k", strict=True, verify=False)


def test_grey_filler_is_never_indexed(tmp_path: Path) -> None:
    half = PLAIN[: len(PLAIN) // 2] + b"\xff\xd9"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    root = source(tmp_path / "src", {"a/0.jpg": PLAIN, "a/1.jpg": half, "b/2.jpg": pointer})
    corpus = Corpus.build(root, tmp_path / "i", max_skipped=0.7)
    assert corpus.fraction(ratio=1.0).keys() == ["a/0.jpg"]
    reasons = {entry["key"]: entry["reason"] for entry in corpus.facts["skipped"]["files"]}
    assert "premature end of data segment" in reasons["a/1.jpg"]
    assert reasons["b/2.jpg"] == "a Git LFS pointer, not the file itself (run: git lfs pull)"


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PPM"])
def test_pillows_formats_are_indexed_and_read(tmp_path: Path, kind: str) -> None:
    data = save(noise(), kind)
    corpus = Corpus.build(source(tmp_path / "src", {f"a/0.{kind.lower()}": data}), tmp_path / "i", yes=True)
    shutil.rmtree(tmp_path / "i")
    corpus = Corpus.build(tmp_path / "src", tmp_path / "i", verify=False, yes=True)  # by the suffix alone
    assert np.array_equal(corpus.fraction(images=1).decode(0), pillow(data))
