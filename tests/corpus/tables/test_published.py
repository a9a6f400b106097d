"""Open Images, ChestX-ray14 and CheXpert, in the very headers and layouts in which they are published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scaleprior.corpus import Corpus
from scaleprior.errors import UserError
from scaleprior.wording import in_flags
from tests.corpus.pictures import jpeg, write_tar
from tests.corpus.tables.conftest import Table

A, B, C = "000002b66c9c498e", "000002b97e5471a0", "000002c707c9895e"
HUMAN = f"""ImageID,Source,LabelName,Confidence
{A},verification,/m/014j1m,0
{A},verification,/m/0bt9lr,1
{B},crowdsource-verification,/m/01yrx,1
{B},verification,/m/0bt9lr,0
{C},verification,/m/0dzct,1
"""
BOXES = f"""ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,\
IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside
{A},xclick,/m/0bt9lr,1,0.012500,0.195312,0.148438,0.587500,0,1,0,0,0
{A},xclick,/m/0bt9lr,1,0.025000,0.276563,0.714063,0.948438,0,1,0,0,0
{B},activemil,/m/01yrx,1,0.151562,0.310937,0.198437,0.590625,1,0,0,0,0
"""
HIERARCHY = {
    "LabelName": "/m/0bl9f",
    "Subcategory": [
        {"LabelName": "/m/0jbk", "Subcategory": [{"LabelName": "/m/0bt9lr"}, {"LabelName": "/m/01yrx"}]},
        {"LabelName": "/m/02xwb", "Subcategory": [{"LabelName": "/m/014j1m"}]},
    ],
}
NAMES = "LabelName,DisplayName\n/m/0bt9lr,Dog\n/m/01yrx,Cat\n/m/0jbk,Animal\n/m/014j1m,Apple\n/m/0dzct,Human face\n"


@pytest.fixture(params=["folders", "tars"])
def open_images(request: pytest.FixtureRequest, tmp_path: Path) -> Table:
    """train/ID.jpg, in a folder or in the tar ``train_0.tar``."""
    table = Table(tmp_path)
    if request.param == "tars":
        write_tar(table.src / "train_0.tar", {f"train_0/{name}.jpg": jpeg(k) for k, name in enumerate((A, B, C))})
    else:
        table.images([f"train/{name}.jpg" for name in (A, B, C)])
    (table.src / "bbox_labels_600_hierarchy.json").write_text(json.dumps(HIERARCHY))
    (table.src / "oidv7-class-descriptions.csv").write_text(NAMES)
    return table


def test_open_images(open_images: Table, tmp_path: Path) -> None:
    labels = open_images.write(HUMAN, "oidv6-train-annotations-human-imagelabels.csv")
    corpus = Corpus.build(open_images.src, tmp_path / "i", labels=labels)
    fraction, space = corpus.fraction(ratio=1.0), corpus.label_space
    names = [space.names[x] for x in fraction.labels()[0]]
    assert sorted(names) == ["Cat", "Dog", "Human face"]
    by_key = {Path(key).stem: k for k, key in enumerate(fraction.keys())}
    absent, offsets = fraction.absent()
    found = {stem: [space.names[x] for x in absent[offsets[k] : offsets[k + 1]]] for stem, k in by_key.items()}
    assert found == {A: ["Apple"], B: ["Dog"], C: []}
    # labels of whole images that the hierarchy of the boxes' labels lacks are beside it
    assert space.parents[space.index("/m/0dzct")] == ()
    assert corpus.facts["warnings"]["labels outside the hierarchy (without parents)"]["count"] == 1
    assert [space.ids[x] for x in space.ancestors(space.index("/m/0bt9lr"))] == ["/m/0bl9f", "/m/0jbk"]
    assert corpus.facts["absent"] == {"labels": 2, "contradicted": 0}


def test_names_of_labels_without_a_hierarchy(open_images: Table) -> None:
    (open_images.src / "bbox_labels_600_hierarchy.json").unlink()
    space = open_images.source(HUMAN).label_space
    assert dict(zip(space.ids, space.names)) == {
        "/m/014j1m": "Apple", "/m/01yrx": "Cat", "/m/0bt9lr": "Dog", "/m/0dzct": "Human face",
    }  # fmt: skip
    (open_images.src / "mine.csv").write_text("/m/01yrx,Katze\n")
    space = open_images.source(HUMAN, descriptions=open_images.src / "mine.csv").label_space
    assert space.names[space.index("/m/01yrx")] == "Katze"


def test_open_images_labels_of_boxes_and_of_machines(open_images: Table) -> None:
    signs = open_images.signs(BOXES, "oidv6-train-annotations-bbox.csv")
    assert {Path(key).stem: value for key, value in signs.items()} == {A: (["/m/0bt9lr"], []), B: (["/m/01yrx"], [])}
    machine = HUMAN.replace("crowdsource-verification", "machine").replace("/m/01yrx,1", "/m/01yrx,0.6")
    with pytest.raises(UserError, match=r"min_confidence=0.5"):
        open_images.source(machine)
    signs = open_images.signs(machine, min_confidence=0.7)
    assert {Path(key).stem: value for key, value in signs.items()}[B] == ([], ["/m/0bt9lr"])


def test_several_hierarchies_are_a_question(open_images: Table) -> None:
    (open_images.src / "my_hierarchy.json").write_text(json.dumps(HIERARCHY))
    with pytest.raises(UserError, match=r"holds several: bbox_labels_600_hierarchy.json, my_hierarchy.json; choose"):
        open_images.source(HUMAN)
    chosen = open_images.source(HUMAN, hierarchy=open_images.src / "my_hierarchy.json")
    assert len(chosen.label_space) == 7


NIH = """Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,\
OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],
00000001_000.png,Cardiomegaly|Emphysema,0,1,58,M,PA,2682,2749,0.143,0.143,
00000002_000.png,No Finding,0,2,81,M,PA,2500,2048,0.171,0.171,
00000003_000.png,Hernia,0,3,81,F,PA,2582,2991,0.143,0.143,
"""


def test_chest_xray14(tmp_path: Path) -> None:
    table = Table(tmp_path)
    table.images([f"images_{n:03}/images/{n:08}_000.png" for n in (1, 2, 3)])
    with pytest.raises(UserError, match=r"column 'Finding Labels': 'No Finding' is a label like any other") as asked:
        table.source(NIH, "Data_Entry_2017.csv")
    assert "--missing 'No Finding'" in in_flags(asked.value)
    assert "--missing ''" in in_flags(asked.value)
    assert table.signs(NIH, "Data_Entry_2017.csv", missing="No Finding") == {
        "images_001/images/00000001_000.png": (["Cardiomegaly", "Emphysema"], []),
        "images_002/images/00000002_000.png": ([], []),
        "images_003/images/00000003_000.png": (["Hernia"], []),
    }
    assert table.read(NIH, "Data_Entry_2017.csv", missing="")[1] == ["No Finding"]


CHEXPERT = """Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,\
Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,\
Support Devices
CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0
CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg,Female,87,Frontal,AP,,,-1.0,1.0,,-1.0,-1.0,,-1.0,,-1.0,,1.0,
"""


def test_chexpert(tmp_path: Path) -> None:
    table = Table(tmp_path)
    table.src = tmp_path / "CheXpert-v1.0-small"
    table.images([f"train/patient0000{n}/study{n}/view1_frontal.jpg" for n in (1, 2)])
    one, two = (f"train/patient0000{n}/study{n}/view1_frontal.jpg" for n in (1, 2))
    source = table.source(CHEXPERT, "train.csv")
    assert {row.key: (sorted(row.labels), sorted(row.absent)) for row in source.rows()} == {
        one: (["No Finding", "Support Devices"], ["Pneumothorax"]),
        two: (["Fracture", "Lung Opacity"], []),
    }
    assert source.notes.warnings["uncertain labels, -1 (unknown)"][0] == 5
    unsure = ["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"]
    ones = table.signs(CHEXPERT, "train.csv", uncertain="positive")[two]
    assert ones == (sorted([*unsure, "Fracture", "Lung Opacity"]), [])
    assert table.signs(CHEXPERT, "train.csv", uncertain="negative")[two] == (["Fracture", "Lung Opacity"], unsure)
    some = table.signs(CHEXPERT, "train.csv", label_column="Lung Opacity..Edema", yes=True)
    assert some == {one: ([], []), two: (["Lung Opacity"], [])}
