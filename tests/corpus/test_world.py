"""The synthetic world: determinism, labels, tight boxes, files on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scaleprior.corpus import Corpus, World, WorldSpec, contact_sheet, decode
from scaleprior.corpus.world.render import Draws
from scaleprior.corpus.world.spec import SHAPE_FAMILIES, TEXTURE_FAMILIES
from scaleprior.corpus.world.tiles import SHAPE_EXTENT, SHAPE_LEVELS, shape_tile, texture_tile
from scaleprior.errors import FailureError, UserError

REPO = Path(__file__).resolve().parents[2]
CALM = WorldSpec(distractors=0, lines=0, occluders=0, noise=0, blur=0, illumination=0, background_contrast=0)


@pytest.fixture(scope="module")
def world() -> World:
    return World(seed=5)


def test_an_image_depends_on_seed_split_and_number_only(world):
    image, labels = world.render("train", 3, 48)
    assert image.shape == (48, 48, 3)
    assert image.dtype == np.uint8
    again = World(seed=5)
    again.render("train", 2, 48)
    assert np.array_equal(again.render("train", 3, 48)[0], image)
    assert again.render("train", 3, 48)[1] == labels
    for other in (world.render("train", 4, 48), world.render("val", 3, 48), World(seed=6).render("train", 3, 48)):
        assert not np.array_equal(other[0], image)


def test_another_process_draws_the_same_bytes(world):
    code = (
        "import hashlib; from scaleprior.corpus import World; w = World(seed=5);"
        "print(hashlib.sha256(w.render('train', 9, 64)[0].tobytes() + w.scene('val', 2, 128)[0].tobytes()).hexdigest())"
    )
    import hashlib

    here = hashlib.sha256(world.render("train", 9, 64)[0].tobytes() + world.scene("val", 2, 128)[0].tobytes())
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=True)
    assert run.stdout.strip() == here.hexdigest()


def test_draws_are_independent_streams():
    streams = [Draws(1, "a", k).uniform() for k in range(2000)]
    assert len(set(streams)) == 2000
    assert abs(np.mean(streams) - 0.5) < 5 * 12**-0.5 / 2000**0.5  # five standard errors
    draws = Draws(1, "a", 0)
    counts = [draws.count(0.6) for _ in range(20_000)]
    assert abs(np.mean(counts) - 0.6) < 0.03
    assert Draws(1, "a", 0).count(0.0) == 0


def test_label_space_is_a_dag_of_pairs(world):
    space = world.label_space
    leaf = space.index("star/dots")
    assert {space.ids[k] for k in space.parents[leaf]} == {"shape:star", "texture:dots"}
    assert {space.ids[k] for k in space.ancestors(leaf)} == {"shape:star", "texture:dots", "angular", "patched"}
    assert all(label in space for number in range(50) for label in world.render("t", number, 32)[1])
    leaves = {space.ids[k] for k in space.leaves}
    assert all(set(world.render("t", number, 32)[1]) <= leaves for number in range(50))


def test_every_class_occurs_about_equally_often():
    world = World(WorldSpec(second_object=0.0), seed=1)
    seen = [label for k in range(1500) for label in world.render("t", k, 16)[1] if label.endswith(("/dots", "/grid"))]
    pairs = len(world.spec.shapes) * len(world.spec.textures)
    expected = 1500 * sum(texture in ("dots", "grid") for texture in world.spec.textures) / len(world.spec.textures)
    assert abs(len(seen) - expected) < 5 * expected**0.5
    assert pairs == sum("/" in node for node in world.label_space.ids)


def test_second_object_adds_its_labels():
    both = World(WorldSpec(second_object=1.0, schemes=()), seed=1)
    counts = [len(both.render("t", k, 32)[1]) for k in range(60)]
    assert max(counts) == 2
    assert np.mean(counts) > 1.5
    alone = World(WorldSpec(second_object=0.0, schemes=()), seed=1)
    assert {len(alone.render("t", k, 32)[1]) for k in range(60)} == {1}


def test_boxes_are_tight_around_what_is_seen():
    """On a plain calm background each pixel that differs from it belongs to an object or its shadow."""
    spec = WorldSpec.from_dict({**CALM.to_dict(), "detection_objects": [1, 1], "contrast": 0.75})
    world = World(spec, seed=2)
    close = 0
    for number in range(40):
        image, objects = world.scene("t", number, 96)
        (found,) = objects
        x, y, width, height = found["bbox"]
        assert 0 <= x < x + width <= 96
        assert 0 <= y < y + height <= 96
        assert 0 < found["area"] <= width * height
        outside = image.astype(int).copy()
        outside[y : y + height, x : x + width] = outside[0, 0] if not (x == 0 and y == 0) else outside[-1, -1]
        inside = image[y : y + height, x : x + width].astype(int)
        close += inside.std() > outside.std()
    assert close >= 38  # a bright object on a background of its own colour may hide


def test_masks_agree_with_boxes_and_limit_occlusion():
    world = World(WorldSpec(min_visible=0.8, detection_objects=(6, 6), detection_size=(0.3, 0.5)), seed=3)
    for number in range(30):
        _, objects = world._draw("t", number, 96, detection=True)
        _, found = world.scene("t", number, 96)
        total = np.zeros((96, 96), dtype=int)
        for (_, mask), entry in zip(objects, found):
            rows, columns = np.nonzero(mask)
            x, y, width, height = entry["bbox"]
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width - 1, y + height - 1) == (columns.max(), rows.max())
            assert entry["area"] == mask.sum()
            total += mask
        assert total.max() <= 1  # a pixel belongs to the object in front alone


def test_polygons_run_along_the_outer_edges_of_what_is_seen():
    import faster_coco_eval.core.mask as mask_api
    from scipy.ndimage import binary_fill_holes

    world = World(WorldSpec(detection_objects=(4, 6), detection_size=(0.1, 0.5)), seed=3)
    for number in range(20):
        _, objects = world._draw("t", number, 96, detection=True)
        _, found = world.scene("t", number, 96, masks=True)
        assert [{k: v for k, v in o.items() if k != "segmentation"} for o in found] == world.scene("t", number, 96)[1]
        for (_, mask), entry in zip(objects, found):
            drawn = mask_api.decode(mask_api.frPyObjects(entry["segmentation"], 96, 96)).any(axis=2)
            # COCO's drawing rounds at the edges; nothing but rounding differs
            filled = binary_fill_holes(mask)
            assert np.count_nonzero(drawn ^ filled) <= 0.03 * np.count_nonzero(filled) + 2


def test_shape_tiles_are_signed_distances():
    tile = shape_tile("disk").astype(float)
    centre = (tile[127:129, 127:129].mean() - 128) / SHAPE_LEVELS
    assert abs(centre - 0.9) < 0.03  # the disk's radius
    row = tile[128]
    assert np.all(np.diff(row[:128]) >= 0)
    edge = np.argmax(row >= 128) / 256 * 2 * SHAPE_EXTENT - SHAPE_EXTENT
    assert abs(edge + 0.9) < 0.02


@pytest.mark.parametrize("name", [*SHAPE_FAMILIES, "blob0", "blob1", "blob2", "blob3"])
def test_shapes_fit_the_unit_circle_and_are_not_empty(name):
    tile = shape_tile(name)
    centres = (np.arange(256) + 0.5) / 256 * 2 * SHAPE_EXTENT - SHAPE_EXTENT
    radius = np.hypot(*np.meshgrid(centres, centres))[tile >= 128]
    assert radius.max() <= 1.02
    assert 0.15 < len(radius) * (2 * SHAPE_EXTENT / 256) ** 2 < 3.2


@pytest.mark.parametrize("name", list(TEXTURE_FAMILIES))
def test_textures_have_two_tones_and_wrap(name):
    tile = texture_tile(name).astype(int)
    assert 30 < tile.mean() < 225
    assert np.ptp(tile) > 200
    for axis in (0, 1):
        inner = np.abs(np.diff(tile, axis=axis)).max()
        seam = np.abs(np.take(tile, 0, axis) - np.take(tile, -1, axis)).max()
        assert seam <= inner + 1


def test_corpus_on_disk(world, tmp_path):
    seen = []
    path = world.write_corpus(tmp_path / "w", 150, image_size=32, progress=lambda *step: seen.append(step[:2]))
    corpus = Corpus.open(path)
    assert seen[-1] == (150, 150)
    fraction = corpus.fraction(images=150)
    assert sorted(fraction.keys()) == [f"{k:09d}.jpg" for k in range(150)]
    labels, offsets = fraction.labels()
    for k in range(0, 150, 17):
        image, ids = world.render("corpus", int(fraction.keys()[k][:9]), 32)
        assert {corpus.label_space.ids[i] for i in labels[offsets[k] : offsets[k + 1]]} == set(ids)
        # JPEG at quality 92 of a noisy picture: the mean error stays within a few levels
        assert np.abs(decode(fraction.read(k)).astype(int) - image).mean() < 6
    places = fraction._locations[1]
    assert np.all(np.diff(places) > 0)  # hash order is byte order
    world.write_corpus(tmp_path / "again", 150, image_size=32)
    assert Corpus.open(tmp_path / "again").fingerprint == corpus.fingerprint
    assert corpus.root == path
    (tmp_path / "w").rename(tmp_path / "moved")  # shards and index move together
    assert Corpus.open(tmp_path / "moved").fraction(images=3).read(2) == fraction_bytes(tmp_path / "again", 2)


def fraction_bytes(path: Path, index: int) -> bytes:
    return Corpus.open(path).fraction(images=index + 1).read(index)


@pytest.mark.parametrize(("kind", "masks"), [("shape", False), ("texture", True), ("leaf", False)])
def test_detection_set_on_disk(tmp_path, kind, masks):
    world = World(WorldSpec(detection_classes=kind), seed=4)
    path, root = world.write_detection(tmp_path / "d", split="val", images=6, canvas=64, masks=masks)
    document = json.loads(path.read_text())
    assert sorted(os.listdir(root)) == [entry["file_name"] for entry in document["images"]]
    assert [category["label"] for category in document["categories"]] == world.categories
    assert [category["id"] for category in document["categories"]] == list(range(1, len(world.categories) + 1))
    assert {a["image_id"] for a in document["annotations"]} <= {entry["id"] for entry in document["images"]}
    assert [a["id"] for a in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))
    assert all(a["iscrowd"] == 0 and a["bbox"][2] > 0 and a["bbox"][3] > 0 for a in document["annotations"])
    assert all(bool(a["segmentation"]) == masks for a in document["annotations"])
    for number, entry in enumerate(document["images"]):
        image = decode((root / entry["file_name"]).read_bytes())
        assert image.shape == (entry["height"], entry["width"], 3) == (64, 64, 3)
        scene, objects = world.scene("detection/val", number, 64)
        assert np.abs(image.astype(int) - scene).mean() < 6
        mine = [a for a in document["annotations"] if a["image_id"] == entry["id"]]
        assert [(a["category_id"], a["bbox"], a["area"]) for a in mine] == [
            (o["category_id"], o["bbox"], o["area"]) for o in objects
        ]


def test_coco_api_reads_the_detection_set(world, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    path, _ = world.write_detection(tmp_path, split="train", images=4, canvas=64)
    loaded = coco.COCO(str(path))
    assert len(loaded.getImgIds()) == 4
    assert len(loaded.getAnnIds()) >= 4


def test_failed_writing_leaves_nothing(world, tmp_path, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(FailureError, match="No space left on device"):
            world.write_detection(tmp_path / "d", split="val", images=2, canvas=32)
    assert list((tmp_path / "d").iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(FailureError, match="No space left on device"):
            world.write_corpus(tmp_path / "c", 5, image_size=16)
    assert os.listdir(tmp_path) == ["d"]


def test_refusals(world, tmp_path):
    with pytest.raises(UserError, match="world corpus of 0 images"):
        world.write_corpus(tmp_path / "c", 0, image_size=32)
    with pytest.raises(UserError, match="image size 8"):
        world.render("t", 0, 8)
    world.write_detection(tmp_path, split="val", images=1, canvas=32)
    with pytest.raises(UserError, match="val already holds"):
        world.write_detection(tmp_path, split="val", images=1, canvas=32)
    world.write_detection(tmp_path, split="val", images=2, canvas=32, overwrite=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shapes": ["blob"]}, r"world shapes \('blob',\); choose different names from disk, ring"),
        ({"textures": []}, "world textures"),
        ({"shapes": ["disk", "disk"]}, "world shapes"),
        ({"object_size": [0.9, 0.5]}, r"world object_size \(0.9, 0.5\)"),
        ({"blur": 1.5}, "world blur 1.5"),
        ({"noise": -1}, "world noise -1"),
        ({"stretch": 0.5}, "world stretch 0.5"),
        ({"detection_classes": "colour"}, "detection_classes 'colour'"),
        ({"shaped": 1}, "unknown world setting 'shaped'"),
        ({"shaped": 1, None: 2}, "unknown world setting 'shaped', None|unknown world setting None, 'shaped'"),
        ({"textures": -1}, "world textures -1"),
        ({"shapes": ["disk", 3]}, r"world shapes \('disk', 3\)"),
        ({"object_size": 0.5}, "world object_size 0.5"),
        ({"object_size": [0.1, "b"]}, "world object_size .*'b'"),
        ({"object_size": [0.1, 0.2, 0.3]}, "world object_size"),
        ({"detection_objects": [1.5, 2]}, r"world detection_objects \(1.5, 2\)"),
        ({"noise": "much"}, "world noise 'much'; the default is 8.0"),
        ({"blur": True}, "world blur True"),
        ({"rotation": float("nan")}, "world rotation nan"),
        ({"detection_classes": 3}, "world detection_classes 3"),
    ],
)
def test_bad_specs(change, message):
    with pytest.raises(UserError, match=message):
        WorldSpec.from_dict({**WorldSpec().to_dict(), **change})


def test_spec_round_trip_and_fingerprint():
    spec = WorldSpec(noise=3.0)
    assert WorldSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert World(spec).fingerprint() != World().fingerprint() != World(seed=1).fingerprint()


def test_contact_sheet_layout():
    tiles = [np.full((4, 4, 3), value, dtype=np.uint8) for value in (10, 20, 30)]
    sheet = contact_sheet(tiles, columns=2, gap=1)
    assert sheet.shape == (11, 11, 3)
    assert sheet[1, 1, 0] == 10
    assert sheet[1, 6, 0] == 20
    assert sheet[6, 1, 0] == 30
    assert sheet[6, 6, 0] == 255
