"""What a run learns from, is measured on and is probed with is what was indexed, or the run is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scaleprior.corpus import Corpus
from scaleprior.errors import UserError
from scaleprior.pretrain import pretrain
from scaleprior.pretrain.data.batches import training_set
from scaleprior.pretrain.run import run_pretraining
from tests.pretrain.conftest import TINY, write_images


@pytest.fixture
def reversed_index(corpus_folder: Path, tmp_path: Path) -> Path:
    """The tiny index with each label turned into another: as many rows, all of them plausible."""
    folder = Path(shutil.copytree(corpus_folder, tmp_path / "reversed"))
    table = pq.read_table(folder / "index.parquet")
    leaves = Corpus.open(folder).label_space.leaves.tolist()
    turned = [[leaves[-1 - leaves.index(label)] for label in row] for row in table.column("labels").to_pylist()]
    at = table.column_names.index("labels")
    labels = pa.array(turned, table.schema.field(at).type)
    pq.write_table(table.set_column(at, table.schema.field(at), labels), folder / "index.parquet")
    return folder


@pytest.mark.parametrize("older", [False, True])
def test_reversed_labels_are_refused_before_anything_is_written(
    small_config: Callable, reversed_index: Path, tmp_path: Path, older: bool
) -> None:
    if older:  # without digests of the columns: the fingerprint is enough
        facts = json.loads((reversed_index / "corpus.json").read_text())
        del facts["columns"]
        (reversed_index / "corpus.json").write_text(json.dumps(facts))
    loaded = small_config(*TINY, "PRETRAIN.CORPUS", str(reversed_index))
    said = "its rows or its label space" if older else "reversed is not what was indexed; changed are the labels;"
    for check in (True, False):
        with pytest.raises(UserError, match=said):
            pretrain(loaded, tmp_path / "run", check=check)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "keys",
    [
        ("PRETRAIN.HELD_OUT.IMAGES", "6", "PRETRAIN.HELD_OUT.CORPUS"),
        ("PRETRAIN.PROBE.KINDS", "['knn']", "PRETRAIN.PROBE.CORPUS"),
    ],
)
def test_so_are_the_images_that_judge(small_config: Callable, reversed_index: Path, tmp_path: Path, keys) -> None:
    with pytest.raises(UserError, match="reversed is not what was indexed; changed are the labels;"):
        run_pretraining(small_config(*keys, str(reversed_index)), tmp_path / "run")


def test_an_image_that_has_changed_is_unreadable_and_named(small_config: Callable, tmp_path: Path) -> None:
    corpus = Corpus.build(write_images(tmp_path / "images", 2), tmp_path / "index")
    fraction = corpus.fraction(images=12)
    other = fraction.read(0)  # of another class; it decodes
    changed = corpus.root / fraction.keys()[1]
    changed.write_bytes((other + b"\0" * 10_000)[: changed.stat().st_size])
    images = training_set(small_config("PRETRAIN.CORPUS", str(corpus.path)).cfg, corpus)
    images.decode(0, "RGB")
    with pytest.raises(UserError, match=f"{changed}: the .* not those that were indexed"):
        images.decode(1, "RGB")
