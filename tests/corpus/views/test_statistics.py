"""What a corpus holds, against a loop over its rows; and that a sample is said to be one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scaleprior.corpus import Corpus, LabelSpace, build_index
from scaleprior.corpus.index import ImageRow
from scaleprior.errors import UserError

SPACE = LabelSpace(
    [
        ("thing", "thing", []),
        ("animal", "animal", ["thing"]),
        ("cat", "cat", ["animal"]),
        ("dog", "dog", ["animal"]),
        ("pet", "pet", ["thing"]),
        ("lap", "lap dog", ["dog", "pet"]),
        ("stone", "stone", ["thing"]),
        ("rock", "rock", ["stone"]),
    ]
)
CHOICES = [("cat",), ("cat", "dog"), ("lap",), (), ("cat", "pet"), ("dog",), ("cat",)]
SIZES = [(8, 6), (12, 6), (40, 30)]


def build(folder: Path, images: int = 30, *, absent: bool = False) -> Corpus:
    """An index of ``images`` files: two in three are PNG, the others JPEG; labels go round CHOICES."""
    rows = []
    (folder / "pictures").mkdir(parents=True)
    for k in range(images):
        name = f"{k:03d}.{'jpg' if k % 3 == 0 else 'png'}"
        pixels = np.random.default_rng(k).integers(0, 255, (SIZES[k % 3][1], SIZES[k % 3][0], 3), dtype=np.uint8)
        path = folder / "pictures" / name
        Image.fromarray(pixels).save(path)
        no = ("rock",) if absent and k % 2 else ()
        rows.append(ImageRow(name, CHOICES[k % len(CHOICES)], "", name, 0, path.stat().st_size, no))
    return build_index(
        rows, folder / "idx", label_space=SPACE, root=folder / "pictures", name="pets", source={"kind": "files"}
    )


def test_counts_are_those_of_a_loop(tmp_path: Path) -> None:
    corpus = build(tmp_path)
    stats = corpus.statistics()
    given, closed = Counter(), Counter()
    per_image, closed_per_image = Counter(), Counter()
    for k in range(30):
        labels = set(CHOICES[k % len(CHOICES)])
        above = labels | {SPACE.ids[a] for label in labels for a in SPACE.ancestors(SPACE.index(label))}
        given.update(labels)
        closed.update(above)
        per_image[len(labels)] += 1
        closed_per_image[len(above)] += 1
    assert {label.id: label.images for label in stats.labels} == {i: given[i] for i in SPACE.ids}
    assert {label.id: label.closed for label in stats.labels} == {i: closed[i] for i in SPACE.ids}
    assert [label.images for label in stats.labels] == sorted(given.values(), reverse=True) + [0] * 4
    assert dict(enumerate(stats.per_image)) == {k: per_image[k] for k in range(3)}
    assert dict(enumerate(stats.closed_per_image)) == {k: closed_per_image[k] for k in range(6)}
    assert stats.mean_closed == pytest.approx(sum(closed.values()) / 30)
    assert [label.id for label in stats.unused] == ["stone", "rock"]
    assert stats.unlabelled == per_image[0] == 4
    sizes = [path.stat().st_size for path in (tmp_path / "pictures").iterdir()]
    assert (stats.bytes_total, stats.bytes_min, stats.bytes_max) == (sum(sizes), min(sizes), max(sizes))


def test_all_headers_are_facts_about_all(tmp_path: Path) -> None:
    headers = build(tmp_path).statistics(sample=None).headers
    assert headers is not None
    assert headers.complete
    assert headers.formats == {"PNG": 20, "JPEG": 10}
    assert headers.spread() == {"width": (8, 12, 40), "height": (6, 6, 30), "pixels": (48, 72, 1200)}
    assert headers.describe() == "all 30 images"


def test_a_sample_is_the_first_in_hash_order_and_says_so(tmp_path: Path) -> None:
    corpus = build(tmp_path)
    headers = corpus.statistics(sample=7).headers
    assert headers is not None
    assert not headers.complete
    assert headers.describe() == "a random sample of 7 of 30 images"
    keys = corpus.fraction(images=7).keys()
    first = [SIZES[int(key[:3]) % 3] for key in keys]
    assert headers.sizes.tolist() == [list(size) for size in first]
    assert corpus.statistics(sample=0).headers is None
    with pytest.raises(UserError, match=r"^sample is -1"):
        corpus.statistics(sample=-1)


def test_images_that_are_gone_or_damaged_are_counted(tmp_path: Path) -> None:
    corpus = build(tmp_path)
    for name in ("000.jpg", "003.jpg"):
        (tmp_path / "pictures" / name).unlink()
    damaged = tmp_path / "pictures" / "001.png"
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    headers = corpus.statistics(sample=None).headers
    assert headers is not None
    assert headers.read == 27
    assert sum(headers.problems.values()) == 3
    assert headers.problems["cannot be read"] == 2


def test_statistics_of_the_first_images_are_those_of_their_fraction(tmp_path: Path) -> None:
    corpus = build(tmp_path)
    corpus.fraction(images=11).save(tmp_path / "f.parquet")
    saved, first = Corpus.open(tmp_path / "f.parquet").statistics(), corpus.statistics(images=11)
    assert saved.to_dict() == first.to_dict()
    assert sum(first.per_image) == 11


def test_absent_labels_are_counted_where_there_are_any(tmp_path: Path) -> None:
    stats = build(tmp_path / "with", absent=True).statistics(sample=0)
    assert {label.id: label.absent for label in stats.labels if label.absent} == {"rock": 15}
    assert "Verified to be absent from an image: 15 labels" in " ".join(stats.sentences())
    plain = build(tmp_path / "without").statistics(sample=0)
    assert not plain.has_absent
    assert "absent" not in plain.to_dict()["labels"][0]


def test_the_sentences_say_what_stands_out(tmp_path: Path) -> None:
    """Seven choices hold 8 labels, and 22 with ancestors; 30 images are four rounds, an image of 1 and one of 2.

    The cat is in four choices: 16, and in both images that remain. The lap dog is in one, and so is the pet, whose
    images with descendants are more.
    """
    said = build(tmp_path).statistics().sentences()
    assert (
        said[0]
        == "30 images; labels an image: 1.17 in the mean, 3.17 with all ancestors; images have 4 of the 8 labels."
    )
    assert "Without a label: 4 images (13.3 %)." in said
    assert "Without an image, also by a label below it: 2 labels." in said
    assert "Images a label: 4 (lap dog) to 18 (cat)." in said


def test_a_tail_is_spoken_of_where_there_are_ten_labels(tmp_path: Path) -> None:
    """Nine labels with an image, one with 11: the first tenth is one label and holds 11 of 20 pairs."""
    labels = [*map(str, range(9)), *["9"] * 11]
    rows = [ImageRow(f"{k}", (label,), "", f"{k}", 0, 1) for k, label in enumerate(labels)]
    options = {"root": tmp_path, "source": {"kind": "files"}, "verify": False}
    corpus = build_index(rows, tmp_path / "idx", label_space=LabelSpace.flat(labels), **options)
    said = corpus.statistics(sample=0).sentences()
    assert said[1].startswith("The most frequent tenth of the labels holds 55.0 % of all pairs of image and label, ")
    assert said[2] == "Labels with fewer than 10 images: 9 (90.0 %), with fewer than 100 images: 10 (100.0 %)."


def test_the_index_is_read_a_row_group_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaleprior.corpus.index._GROUP_ROWS", 8)
    corpus = build(tmp_path)
    fraction = corpus.fraction(images=20)
    assert [batch.num_rows for batch in fraction.batches("key")] == [8, 8, 4]
    keys = [key for batch in fraction.batches("key") for key in batch.column("key").to_pylist()]
    assert keys == fraction.keys()
