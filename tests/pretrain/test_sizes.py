"""Progressive resizing: which side a step has, what a run costs, and that crops stay a function of their position."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from scaleprior.corpus import Corpus
from scaleprior.errors import UserError
from scaleprior.pretrain.data.augment import CropAugmentation
from scaleprior.pretrain.data.batches import TrainBatches, training_set
from scaleprior.pretrain.data.sizes import ImageSizes
from scaleprior.pretrain.plan import planned_card
from scaleprior.training.positions import BatchPlan

KEY = "PRETRAIN.INPUT.PROGRESSIVE"


def dataset(cfg, total: int, **options: int) -> TrainBatches:
    images = training_set(cfg, Corpus.open(cfg.PRETRAIN.CORPUS))
    sizes = ImageSizes.from_config(cfg, total=total)
    plan = BatchPlan(len(images), 4, seed=5)
    return TrainBatches(images, plan, CropAugmentation.from_config(cfg), order="RGB", sizes=sizes, **options)


def test_sides_and_cost_by_hand() -> None:
    # 10 steps: 5 at 128, 3 at 176, 2 at 224
    sizes = ImageSizes(10, 224, ends=(5, 8), sides=(128, 176))
    assert [sizes(step) for step in range(10)] == [128] * 5 + [176] * 3 + [224] * 2
    assert sizes.cost == pytest.approx((5 * 128**2 + 3 * 176**2 + 2 * 224**2) / (10 * 224**2), rel=1e-12)
    assert str(sizes) == "128 until step 5, 176 until step 8, then 224"
    assert ImageSizes(10, 224).cost == 1


@pytest.mark.parametrize("text", ["((0.5, 8), (0.75, 12))", "[[0.5, 8], [0.75, 12]]"])
@pytest.mark.parametrize("crop", ["resize_crop", "random_resized_crop"])
def test_a_step_is_the_same_however_it_is_reached(text: str, crop: str, small_config: Callable) -> None:
    """With and without a cache, in order and by a jump; a crop is that of a run of its side throughout."""
    words = ("PRETRAIN.INPUT.CROP", crop, KEY, text, "PRETRAIN.FRACTION.IMAGES", "8")  # each comes in every size
    cfg = small_config(*words).cfg
    ordered, jumping = dataset(cfg, 8, cache_bytes=2**20), dataset(cfg, 8)
    for step in range(8):
        side = 8 if step < 4 else 12 if step < 6 else 16
        images = ordered[step].images.numpy()
        assert images.shape == (4, side, side, 3)
        plain = small_config("PRETRAIN.INPUT.CROP", crop, "PRETRAIN.INPUT.SIZE", str(side))
        plain = CropAugmentation.from_config(plain.cfg).scaled(side)
        resize = {8: 10, 12: 15, 16: 20}[side] if crop == "resize_crop" else plain.resize
        fixed = TrainBatches(
            ordered.images,
            ordered.plan,
            CropAugmentation(crop, side, resize, plain.scale, plain.ratio, plain.mirror),
            order="RGB",
        )
        assert np.array_equal(images, fixed[step].images.numpy())
    for step in (7, 3, 4, 0):
        assert np.array_equal(ordered[step].images.numpy(), jumping[step].images.numpy())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("(0.5, 12)", r"PROGRESSIVE is \(0.5, 12\), with 0.5 in it; give pairs of a share of the run and a size"),
        ("((0.5, 12.5),)", r"with \(0.5, 12.5\) in it; give pairs"),
        ("((0.5, 12, 1),)", r"with \(0.5, 12, 1\) in it"),
        ("((True, 12),)", r"with \(True, 12\) in it"),
        ("(('half', 12),)", r"with \('half', 12\) in it"),
        ("((1.0, 12),)", r"with share 1 in it; give one above 0 and below 1"),
        ("((0.5, 8), (0.5, 12))", r"with share 0.5 in it; give one above 0.5 and below 1"),
        ("((0.5, 16),)", r"with size 16 in it; give one above 7 and below PRETRAIN.INPUT.SIZE 16"),
        ("((0.5, 12), (0.6, 12))", r"with size 12 in it; give one above 12 and below PRETRAIN.INPUT.SIZE 16"),
        ("((0.5, 4),)", r"with size 4 in it; give one above 7"),
    ],
)
def test_other_values_are_refused(value: str, message: str, small_config: Callable) -> None:
    with pytest.raises(UserError, match=message):
        planned_card(small_config(KEY, value).cfg)


def test_sides_that_leave_a_trunk_nothing_are_refused(small_config: Callable) -> None:
    trunk = ("MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.TIMM.MODEL", "convnext_tiny")
    words = (*trunk, "MODEL.RESNETS.NORM", "LN", "PRETRAIN.INPUT.SIZE", "64", "PRETRAIN.INPUT.RESIZE", "64")
    with pytest.raises(UserError, match=r"PROGRESSIVE has the size 24; convnext_tiny leaves nothing .* of 32 or more"):
        planned_card(small_config(*words, KEY, "((0.5, 24),)").cfg)
