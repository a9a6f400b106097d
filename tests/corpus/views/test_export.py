"""The export for FiftyOne against content derived by hand, and against its own importer where it is installed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scaleprior.corpus import Corpus, LabelSpace, build_index
from scaleprior.corpus.index import ImageRow
from scaleprior.corpus.views.export import export_names
from scaleprior.corpus.views.fiftyone_folder import fiftyone_folder
from scaleprior.errors import UserError
from tests.corpus.pictures import write_tar
from tests.corpus.views.test_statistics import build

SPACE = LabelSpace([("a", "animal", []), ("c", "food", ["a"]), ("d", "food", [])])


def png(width: int, height: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (width, height), (10, 20, 30)).save(content, "PNG")
    return content.getvalue()


def in_tar(folder: Path) -> Corpus:
    """One image in a tar, with the labels c and d, and a verified absence of a label in another one."""
    folder.mkdir(parents=True, exist_ok=True)
    image = png(6, 4)
    write_tar(folder / "s.tar", {"x/1": image})
    rows = [
        ImageRow("x/1", ("c", "d"), "s.tar", "x/1", 512, len(image)),
        ImageRow("x/2", (), "s.tar", "x/1", 512, len(image), ("d",)),
    ]
    source = {"kind": "tars", "split": "train"}
    return build_index(rows, folder / "idx", label_space=SPACE, root=folder, name="t", source=source)


def samples(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "samples.json").read_text())["samples"]


def test_an_image_in_a_tar_by_hand(tmp_path: Path) -> None:
    corpus = in_tar(tmp_path)
    assert corpus.export(tmp_path / "out") == tmp_path / "out"
    found = {sample["key"]: sample for sample in samples(tmp_path / "out")}
    rank = corpus.fraction(images=2).keys().index("x/1")

    def labels(*pairs: tuple[str, str]) -> dict[str, Any]:
        entries = [{"_cls": "Classification", "label": label, "label_id": node} for label, node in pairs]
        return {"_cls": "Classifications", "classifications": entries}

    assert found["x/1"] == {
        "filepath": "data/x/1.png",
        "tags": ["train"],
        "metadata": {
            "_cls": "ImageMetadata",
            "size_bytes": len(png(6, 4)),
            "mime_type": "image/png",
            "width": 6,
            "height": 4,
        },
        "labels": labels(("food (c)", "c"), ("food (d)", "d")),
        "with_ancestors": labels(("animal", "a"), ("food (c)", "c"), ("food (d)", "d")),
        "absent": labels(),
        "key": "x/1",
        "rank": rank,
        "fraction": (rank + 1) / 2,
    }
    assert found["x/2"]["absent"] == labels(("food (d)", "d"))
    assert (tmp_path / "out" / "data" / "x" / "1.png").read_bytes() == png(6, 4)
    metadata = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert "version" not in metadata  # by which FiftyOne tells this form from its database's
    assert (metadata["name"], metadata["media_type"]) == ("t", "image")
    assert metadata["info"]["classes"]["labels"] == ["animal", "food (c)", "food (d)"]
    assert metadata["info"]["fingerprint"] == corpus.fingerprint


def test_plain_files_are_named_unless_they_are_copied(tmp_path: Path) -> None:
    corpus = build(tmp_path)
    corpus.export(tmp_path / "named", images=7)
    paths = [sample["filepath"] for sample in samples(tmp_path / "named")]
    keys = corpus.fraction(images=7).keys()
    assert paths == [str(tmp_path / "pictures" / key) for key in keys]
    assert not (tmp_path / "named" / "data").exists()
    corpus.export(tmp_path / "copied", images=7, copy=True)
    copied = samples(tmp_path / "copied")
    assert [sample["filepath"] for sample in copied] == [f"data/{key}" for key in keys]
    for sample, path in zip(copied, paths):
        assert (tmp_path / "copied" / sample["filepath"]).read_bytes() == Path(path).read_bytes()
    assert [sample["rank"] for sample in copied] == list(range(7))
    assert copied[-1]["fraction"] == 7 / 30
    assert "absent" not in copied[0]


def test_an_export_is_complete_or_not_there(tmp_path: Path) -> None:
    corpus = build(tmp_path)
    next((tmp_path / "pictures").iterdir()).unlink()
    with pytest.raises(UserError, match=r"image .*/pictures/\d+\.\w+ cannot be read: No such file"):
        corpus.export(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out.*"))
    with pytest.raises(UserError, match=r"^format is 'voc'; take fiftyone"):
        corpus.export(tmp_path / "out", format="voc")


def test_only_an_earlier_export_is_replaced(tmp_path: Path) -> None:
    corpus = in_tar(tmp_path)
    corpus.export(tmp_path / "out")
    with pytest.raises(UserError, match="already holds a FiftyOne data set"):
        corpus.export(tmp_path / "out")
    corpus.export(tmp_path / "out", images=1, overwrite=True)
    assert len(samples(tmp_path / "out")) == 1
    with pytest.raises(UserError, match="exists and is not a FiftyOne data set"):
        corpus.export(tmp_path / "idx", overwrite=True)


@pytest.mark.parametrize("name", ["../../evil.png", "/evil.png", "a/../../evil.png", "a//b.png", "..\\..\\evil.png"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with fiftyone_folder(tmp_path / "deep" / "out", name="n", info={}) as folder:
        assert folder.keep(name, png(1, 1)) == "data/00000000.png"
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert [str(file) for file in files] == [
        "deep/out/data/00000000.png", "deep/out/metadata.json", "deep/out/samples.json",
    ]  # fmt: skip


def test_a_name_of_several_labels_is_followed_by_the_id() -> None:
    assert export_names(["1", "2", "3"], ["food", "tea", "food"]) == ["food (1)", "tea", "food (3)"]


def test_the_command(cli: Any, tmp_path: Path) -> None:
    build(tmp_path)
    run = cli("corpus", "export", "idx", "out", "--images", "3", "--copy", "--json")
    assert (run.returncode, run.stderr) == (0, "")
    assert json.loads(run.stdout) == {"name": "pets", "images": 3, "format": "fiftyone", "out": "out"}
    assert len(list((tmp_path / "out" / "data").iterdir())) == 3
    assert "31 images does not fit" in cli("corpus", "export", "idx", "o", "--images", "31").stderr
    assert "--format is 'x'; take fiftyone" in cli("corpus", "export", "idx", "o", "--format", "x").stderr


def test_fiftyone_reads_what_was_written(tmp_path: Path) -> None:
    """Its importer as ``Dataset.from_dir`` calls it, short of the database."""
    fo = pytest.importorskip("fiftyone")
    importers = pytest.importorskip("fiftyone.utils.data.importers")

    exif = Image.Exif()
    exif[0x0112] = 6  # shown 4 wide and 6 high
    corpus = build(tmp_path, absent=True)
    turned = tmp_path / "pictures" / "003.jpg"
    Image.new("RGB", (6, 4)).save(turned, exif=exif)
    corpus.export(tmp_path / "out")
    found = importers._handle_legacy_formats(importers.FiftyOneDatasetImporter(str(tmp_path / "out")))
    assert isinstance(found, importers.LegacyFiftyOneDatasetImporter)
    found.setup()
    read = list(found)
    assert len(read) == len(found) == 30
    labels, offsets = corpus.fraction(images=30).labels()
    for rank, (sample, key) in enumerate(zip(read, corpus.fraction(images=30).keys())):
        assert (sample.media_type, sample.key, sample.rank) == ("image", key, rank)
        given = [corpus.label_space.names[k] for k in labels[offsets[rank] : offsets[rank + 1]]]
        assert [label.label for label in sample.labels.classifications] == given
        assert all(isinstance(label, fo.Classification) for label in sample.with_ancestors.classifications)
        assert bool(sample.absent.classifications) == bool(int(key[:3]) % 2)
        fresh = fo.ImageMetadata.build_for(sample.filepath)
        for name in ("width", "height", "mime_type", "size_bytes"):
            assert sample.metadata[name] == fresh[name]
    assert {(s.metadata.width, s.metadata.height) for s in read if s.filepath == str(turned)} == {(4, 6)}
