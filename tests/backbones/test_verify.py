"""The verdict: each kind of trouble is planted and found, and healthy weights pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.exactness import randomise
from scaleprior.backbones import Card, ResNetSpec, TimmSpec, build_resnet, build_trunk, to_detectron2
from scaleprior.backbones.pictures import drawn_image, feature_maps, save_feature_picture
from scaleprior.backbones.verify import verify_backbone
from scaleprior.errors import UserError

SPEC = ResNetSpec(res2_out_channels=64, width_per_group=16)
CARD = Card("w", SPEC, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "RGB")


@pytest.fixture
def trained() -> dict[str, torch.Tensor]:
    """Norms away from 1 and 0, convolutions away from He's spread, as training leaves them."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    state = to_detectron2(randomise(build_resnet(SPEC), 0).state_dict())
    return {name: t * 0.6 if t.ndim == 4 else t for name, t in state.items()}


def findings(tensors: dict[str, torch.Tensor], card: Card = CARD) -> tuple[str, str]:
    verdict = verify_backbone(tensors, card)
    return verdict.level, " | ".join(f.what for f in verdict.findings)


def test_healthy_weights_pass_and_the_config_is_told(trained: dict) -> None:
    verdict = verify_backbone(trained, CARD)
    assert verdict.level == "good"
    assert verdict.words == "w looks like a whole, trained R-50-w16; it can be used"
    assert "MODEL.RESNETS.STRIDE_IN_1X1 False" in verdict.config
    assert verdict.statistics["res5"]["tensors"] == 50
    assert sum(row["parameters"] for row in verdict.statistics.values()) == sum(t.numel() for t in trained.values())


def test_fresh_weights_look_untrained() -> None:
    fresh = to_detectron2(build_resnet(SPEC).state_dict())
    level, words = findings(fresh)
    assert level == "bad"
    assert "it looks untrained: 52 of 52 norms" in words
    default = {n: torch.nn.init.kaiming_normal_(t.clone()) if t.ndim == 4 else t for n, t in fresh.items()}
    assert findings(default)[0] == "bad"  # fan-in instead of fan-out


def test_random_norms_on_fresh_convolutions_are_suspicious() -> None:
    torch.manual_seed(1)
    level, words = findings(to_detectron2(randomise(build_resnet(SPEC), 1).state_dict()))
    assert level == "warning"
    assert "its convolutions have the statistics of fresh ones (0 of 52 norms" in words


def test_partly_fresh(trained: dict) -> None:
    for name in [n for n in trained if n.startswith("res5") and ".norm." in n]:
        trained[name] = torch.ones_like(trained[name]) if name.endswith("weight") else torch.zeros_like(trained[name])
    level, words = findings(trained)
    assert level == "warning"
    assert "parts look untrained: 10 of 52 norms" in words


def test_nan_and_negative_variance_are_bad(trained: dict) -> None:
    broken = {**trained, "stem.conv1.weight": trained["stem.conv1.weight"].clone()}
    broken["stem.conv1.weight"][0, 0, 0, 0] = torch.nan
    level, words = findings(broken)
    assert level == "bad"
    assert f"1 of {len(trained)} tensors hold NaN or infinity" in words
    name = "res2.0.conv1.norm.running_var"
    assert "1 running variances are negative" in findings({**trained, name: -trained[name]})[1]


def test_dead_channels_are_counted(trained: dict) -> None:
    trained["res3.0.conv1.norm.weight"][:5] = 0
    trained["res3.1.conv2.norm.running_var"][:3] = 0
    trained["res4.0.conv2.weight"][7] = 0
    verdict = verify_backbone(trained, CARD)
    alive = verdict.findings[1]
    assert alive.what.startswith("8 of ")
    assert alive.what.endswith("norm channels are dead, 1 convolution filters are all zero")
    assert alive.tensors == ("res3.0.conv1.norm", "res3.1.conv2.norm")
    assert verdict.statistics["res3"]["dead_channels"] == 8
    trained["res2.0.conv1.norm.weight"][:] = 0
    assert verify_backbone(trained, CARD).level == "warning"


def test_a_variance_is_small_beside_eps_alone(trained: dict) -> None:
    """Torchvision's COCO detectors have eps 0, under which a variance of 1e-13 is one like any other."""
    trained["res2.0.conv1.norm.running_var"][0] = 1e-13
    for eps, dead in ((1e-5, 1), (1e-6, 1), (1e-8, 0), (0, 0)):
        card = Card("w", SPEC, CARD.pixel_mean, CARD.pixel_std, "RGB", norm_eps=eps)
        assert verify_backbone(trained, card).statistics["res2"]["dead_channels"] == dead


def test_the_card_speaks_too(trained: dict) -> None:
    card = Card("w", SPEC, CARD.pixel_mean, CARD.pixel_std, "RGB", norm_eps=1e-3, recipe={"fresh_tensors": ["a"]})
    level, words = findings(trained, card)
    assert level == "warning"  # of the fresh ones
    assert "its norms have eps 0.001, not 1e-05: detectors here build that, stock Detectron2 cannot" in words
    assert "1 tensors were missing and are fresh" in words
    assert "the card does not know: licence, images, corpus" in words


def test_features_depend_on_order_and_statistics_of_the_card(trained: dict) -> None:
    image = drawn_image(96)
    assert image.shape == (96, 96, 3)
    maps = feature_maps(trained, CARD, image)
    assert {k: v.shape for k, v in maps.items()}["res4"] == (256, 6, 6)
    swapped = Card("w", SPEC, CARD.pixel_mean[::-1], CARD.pixel_std[::-1], "BGR")
    # the same pixels, normalised alike, handed over in the other order
    assert not np.allclose(feature_maps(trained, swapped, image)["res2"], maps["res2"])
    flipped = {**trained, "stem.conv1.weight": trained["stem.conv1.weight"].flip(1)}
    np.testing.assert_allclose(feature_maps(flipped, swapped, image)["res2"], maps["res2"], rtol=1e-3, atol=1e-4)


def test_picture(trained: dict, tmp_path: Path) -> None:
    from scaleprior.corpus import decode

    save_feature_picture(trained, CARD, tmp_path / "p.png", image=drawn_image(96))
    picture = decode((tmp_path / "p.png").read_bytes())
    assert min(picture.shape[:2]) > 400
    assert picture.std() > 20
    arch = TimmSpec("resnet50_clip")
    card = Card("c", arch, arch.facts.pixel_mean, arch.facts.pixel_std, "RGB")
    save_feature_picture(build_trunk(arch).body.state_dict(), card, tmp_path / "c.png", image=drawn_image(96))
    with pytest.raises(UserError, match=r"image of 63 x 90 pixels; 64 x 64 at least"):
        save_feature_picture(trained, CARD, tmp_path / "q.png", image=drawn_image(96)[:90, :63])
    with pytest.raises(UserError, match=r"name it \*.png"):
        save_feature_picture(trained, CARD, tmp_path / "q.jpg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.png", "p.png"]
