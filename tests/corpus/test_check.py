"""The check of an index: every file that its images are in, none of them decoded."""

from __future__ import annotations

from pathlib import Path

from scaleprior.corpus import Corpus
from scaleprior.corpus.check import check_corpus
from scaleprior.corpus.world.spec import WorldSpec
from scaleprior.corpus.world.world import World
from tests.corpus.pictures import class_folders


def test_files_that_are_gone_or_shorter_are_all_named(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "images", {"cat": 3, "dog": 4})
    corpus = Corpus.build(root, tmp_path / "index")
    whole = corpus.fraction(images=7)
    told: list[tuple[int, int]] = []
    report = check_corpus(whole, progress=lambda done, total, _: told.append((done, total)))
    assert (report.findings, told) == ([], [(7, 7)])
    assert report.facts == {"corpus": f"index: 7 of 7 images in 7 files under {root}"}
    (root / "cat" / "0.jpg").unlink()
    (root / "dog" / "1.jpg").unlink()
    cut = root / "dog" / "2.jpg"
    size = cut.stat().st_size
    cut.write_bytes(cut.read_bytes()[:-1])
    report = check_corpus(whole)
    gone, shorter = report.findings
    assert (gone.kind, gone.count, set(gone.examples)) == ("corpus_missing", 2, {"cat/0.jpg", "dog/1.jpg"})
    assert shorter.examples == (f"dog/2.jpg has {size - 1} bytes, the index needs {size}",)
    assert gone.what.endswith(f"files that are not under {root}, with 2 of 7 images")
    assert not report.ok
    assert not check_corpus(whole, tolerated=2 / 7).ok  # three images are lost
    tolerated = check_corpus(whole, tolerated=3 / 7)
    assert tolerated.ok
    assert [finding.count for finding in tolerated.findings] == [2, 1]


def test_rows_that_are_not_asked_for_do_not_count(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "images", {"cat": 4, "dog": 4})
    corpus = Corpus.build(root, tmp_path / "index")
    last = corpus.fraction(images=8).keys()[-1]
    (root / last).unlink()
    assert check_corpus(corpus.fraction(images=7)).ok
    assert check_corpus(corpus.fraction(images=8), start=7).findings[0].examples == (last,)
    assert not check_corpus(corpus.fraction(images=8)).ok


def test_a_tar_counts_by_the_last_image_in_it(tmp_path: Path) -> None:
    world = World(WorldSpec.from_dict({"shapes": ["disk", "star"], "textures": ["dots", "grid"]}), 0)
    world.write_corpus(tmp_path / "index", 9, image_size=16)
    corpus = Corpus.open(tmp_path / "index")
    (tar,) = corpus.fraction(images=9).extents()[0]
    assert check_corpus(corpus.fraction(images=9)).ok
    path = corpus.root / tar
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    report = check_corpus(corpus.fraction(images=9))
    assert [(finding.kind, finding.count) for finding in report.findings] == [("corpus_changed", 1)]
    assert check_corpus(corpus.fraction(images=1)).ok  # in hash order it comes first, and so do its bytes
