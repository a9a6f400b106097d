"""VOC sets that Detectron2 could not read, or not evaluate, are refused with the file that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import PascalVOCDetectionEvaluator

from scaleprior.d2.evaluation.voc import check_voc, listed_files
from scaleprior.errors import UserError
from tests.d2.evaluation.conftest import make_voc, register_voc


def edit(old: str, new: str, name: str = "001.xml") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "Annotations" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def listing(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "ImageSets" / "Main" / "trainval.txt").write_text(text) and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def breaks(name: str) -> bool:
    """Whether Detectron2's own loader or evaluator ends in an error."""
    try:
        DatasetCatalog.get(name)
        evaluator = PascalVOCDetectionEvaluator(name)
        evaluator.reset()
        evaluator.evaluate()
    except Exception:
        return True
    return False


@pytest.mark.parametrize(
    ("change", "said", "also_for_training"),
    [
        (remove("ImageSets/Main/trainval.txt"), "no list of images at", True),
        (remove("Annotations/001.xml"), "1 file that trainval.txt lists and that is not in Annotations", True),
        (listing("000\n"), "lists 1 image; Detectron2 reads one name a line, and 2 at least", True),
        (listing("000 1\n001 -1\n"), "has the line '000 1'", True),
        (edit("</annotation>", ""), "1 annotation file that cannot be used, first:", True),
        (edit("<name>", "<name>un"), "which is not among the 2 classes", True),
        (edit("<width>64</width>", ""), "its size has no width", True),
        (edit("<pose>Unspecified</pose>", ""), "has no pose, which Detectron2's evaluation reads", False),
        (edit("<difficult>0</difficult>", ""), "says difficult None", False),
        (edit("</xmin>", ".0</xmin>"), "reads whole corners only", False),
    ],
)
def test_what_detectron2_cannot_read(
    change: Callable[[Path], None], said: str, also_for_training: bool, tmp_path: Path
) -> None:
    """Held against Detectron2 itself: what is refused breaks it; training is refused only what breaks that."""
    folder = make_voc(tmp_path / "voc")
    metadata = MetadataCatalog.get(register_voc("voc", folder))
    check_voc("voc", metadata, evaluated=True)
    assert not breaks("voc")
    assert len(listed_files("voc", metadata)) == 7
    change(folder)
    from detectron2.evaluation import pascal_voc_evaluation

    pascal_voc_evaluation.parse_rec.cache_clear()
    with pytest.raises(UserError) as e:
        check_voc("voc", metadata, evaluated=True)
    assert said in str(e.value)
    assert str(folder) in str(e.value)
    assert breaks("voc")
    if also_for_training:
        with pytest.raises(UserError):
            check_voc("voc", metadata, evaluated=False)
    else:
        check_voc("voc", metadata, evaluated=False)
        DatasetCatalog.get("voc")


def test_an_image_that_is_missing(tmp_path: Path) -> None:
    folder = make_voc(tmp_path / "voc")
    (folder / "JPEGImages" / "002.jpg").unlink()
    with pytest.raises(
        UserError, match=r"1 file that trainval.txt lists and that is not in JPEGImages, first: .*002.jpg"
    ):
        check_voc("voc", MetadataCatalog.get(register_voc("voc", folder)), evaluated=False)


def test_a_class_without_objects_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_voc(tmp_path / "voc")
    metadata = MetadataCatalog.get(register_voc("voc", folder))
    metadata.as_dict()
    for path in (folder / "Annotations").iterdir():
        path.write_text(path.read_text().replace("square", "block"))
    check_voc("voc", metadata, evaluated=True)
    assert "has 1 category without objects, first: square; each is a zero in Detectron2's AP" in caplog.text
