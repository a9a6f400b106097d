"""Images as Detectron2's own reader gives them: the embedded engine sees the same pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data.detection_utils import read_image

from scaleprior.corpus.images import decode
from scaleprior.d2 import register_datasets
from scaleprior.d2.data.images import is_wide
from scaleprior.d2.data.loader import NamedMapper, ResumableLoader
from scaleprior.d2.trainer import Trainer
from scaleprior.errors import UserError
from tests.corpus.images.files import exif, insert, jpeg_segment, noise, save
from tests.d2.conftest import tiny


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied_as_detectron2_applies_it(tmp_path: Path, kind: str, orientation: int) -> None:
    file = tmp_path / "image"
    file.write_bytes(save(noise(), kind, exif=exif(orientation)))
    for order in ("RGB", "BGR"):
        assert np.array_equal(decode(file.read_bytes(), order=order), read_image(str(file), order))


@pytest.mark.parametrize(
    "block", [b"", b"no TIFF header", exif(6)[6:22], exif(6)[6:].replace(b"\x01\x12\0\x03", b"\x01\x12\0\x02")]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_missing_and_broken_exif_turn_nothing_there_either(tmp_path: Path, block: bytes) -> None:
    file = tmp_path / "image.jpg"
    file.write_bytes(insert(save(noise(), "JPEG"), 2, jpeg_segment(0xE1, b"Exif\0\0" + block)))
    assert np.array_equal(decode(file.read_bytes()), read_image(str(file), "RGB"))
    assert decode(file.read_bytes()).shape == noise().shape


def test_detectron2_turns_a_tiff_twice(tmp_path: Path) -> None:
    """The one difference: Pillow turned it already. If this fails, Detectron2 or Pillow was mended; say so in docs/."""
    file = tmp_path / "image.tif"
    file.write_bytes(save(noise(), "TIFF", exif=exif(3)))
    assert np.array_equal(decode(file.read_bytes()), noise()[::-1, ::-1])
    assert np.array_equal(read_image(str(file), "RGB"), noise())


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.png", save(noise()[..., 0].astype(np.uint16) * 256, "PNG"), "16 bits, which Detectron2 cuts off at 255"),
        ("a.tif", save(noise()[..., 0].astype(np.uint16) * 256, "TIFF"), "16 bits, which Detectron2 cuts off at 255"),
        ("a.tiff", save(noise(), "TIFF", exif=exif(6)), "by which Detectron2 turns it twice"),
    ],
)
def test_what_detectron2_would_misread_is_refused(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    refused = NamedMapper(lambda record: record)({"file_name": str(tmp_path / name)})
    assert isinstance(refused, UserError)
    assert f"{name} cannot be used: " in str(refused)
    assert said in str(refused)
    assert str(refused).count("torchvision engine") == 1
    decode(data)  # the torchvision engine reads it


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.png", save(noise(), "PNG")),
        ("b.png", save(noise()[..., 0], "PNG")),
        ("a.tif", save(noise(), "TIFF", exif=exif(1))),
        ("a.jpg", save(noise(), "JPEG", exif=exif(6))),
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_what_it_reads_well_passes(tmp_path: Path, name: str, data: bytes, strict: bool) -> None:
    (tmp_path / name).write_bytes(data)
    record = {"file_name": str(tmp_path / name)}
    assert NamedMapper(lambda record: record, strict=strict)(record) is record


def test_strictness_holds_with_detectron2_too(tmp_path: Path, coco: list[str]) -> None:
    plain = save(noise(), "JPEG")
    (tmp_path / "a.jpg").write_bytes(insert(plain, len(plain) - 2, bytes(40)))
    record = {"file_name": str(tmp_path / "a.jpg")}
    assert NamedMapper(lambda record: record)(record) is record
    refused = NamedMapper(lambda record: record, strict=True)(record)
    assert "extraneous bytes before marker" in str(refused)
    # ... and the key reaches both loaders
    for file in (tmp_path / "data" / "images").iterdir():
        file.write_bytes(file.read_bytes() + b"x")
    cfg = tiny("FPN", [*coco, "SCALEPRIOR.STRICT_IMAGES", "True"]).cfg
    register_datasets(cfg)
    for batches in (ResumableLoader.from_config(cfg), Trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0])):
        with pytest.raises(UserError, match="PNG with bytes after the end"):
            next(iter(batches))


@pytest.mark.parametrize(("orientation", "wide"), [(1, True), (3, True), (6, False), (8, False)])
def test_an_entry_without_sides_is_as_wide_as_its_upright_image(tmp_path: Path, orientation: int, wide: bool) -> None:
    """Semantic sets say no sides (ADE20k); Detectron2 knows them once the image is read and turned."""
    path = tmp_path / "a.jpg"
    path.write_bytes(save(noise()[:8, :16], "JPEG", exif=exif(orientation)))
    pixels = read_image(str(path))
    assert is_wide({"file_name": str(path)}) == wide == (pixels.shape[1] > pixels.shape[0])
    assert is_wide({"file_name": "nowhere", "width": 2, "height": 1})
    with pytest.raises(UserError, match="image nowhere cannot be used"):
        is_wide({"file_name": "nowhere"})
