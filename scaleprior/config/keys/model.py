"""Keys of the whole config and of the backbone: the device, weights, pixels, the ResNet and its pyramid, anchors."""

from __future__ import annotations

from functools import partial

from scaleprior.config.keys.key import DETECTION, DETECTORS, EVERYBODY, FINETUNE, PRETRAIN, Key
from scaleprior.config.keys.legal import POSITIVE, Anything, Each, Number, at_least, one_of

__all__ = ["KEYS"]

_EVERY_STAGE = (PRETRAIN, *DETECTION)
_detector = partial(Key, engines=DETECTORS, changes=DETECTION)
_of_model = partial(Key, engines=DETECTORS, changes=DETECTION, fixed=True)
_of_trunk = partial(Key, engines=EVERYBODY, changes=_EVERY_STAGE, fixed=True)
_STAGES = one_of("res2", "res3", "res4", "res5")
# The norms of convolutions in pyramid and heads.
NO_NORM_OR = one_of("", "BN", "SyncBN", "GN")

KEYS = (
    _detector("VERSION", 2, "Version of Detectron2's config format; only 2 is read.", legal=one_of(2)),
    Key(
        "SEED", -1,
        "Seeds data order, augmentation, sampling and the initial weights of new layers. Negative: as 0, so that a run "
        "is repeatable unless one asks otherwise (Detectron2's comment promises a random seed here, its sampler does "
        "not).",
        engines=EVERYBODY, changes=(PRETRAIN, FINETUNE), legal=Number(high=2**63 - 1),
    ),
    Key("OUTPUT_DIR", "./output", "Where a run writes unless told otherwise.", engines=EVERYBODY, changes=()),
    Key(
        "MODEL.DEVICE", "auto",
        '"auto" (cuda if there is one, else cpu), "cpu", "cuda", "cuda:1", ... Results differ in their last bits.',
        engines=EVERYBODY, changes=_EVERY_STAGE, legal=Anything("a device"),
    ),
    Key(
        "MODEL.WEIGHTS", "",
        "A backbone to start from (.safetensors file, a foreign one that says all that matters, or scaleprior://NAME), "
        'or a trained model file to evaluate; "" = none.',
        engines=EVERYBODY, changes=_EVERY_STAGE, by_content=True,
    ),
    _of_trunk(
        "MODEL.PIXEL_MEAN", [103.530, 116.280, 123.675],
        "On the 0-255 scale, one for each channel in the order of INPUT.FORMAT: the network sees (pixel - mean) / std. "
        "The defaults are those of Detectron2's MSRA weights (BGR, std folded into conv1).",
        legal=Each(Number(), lengths=(3,)),
    ),
    _of_trunk(
        "MODEL.PIXEL_STD", [1.0, 1.0, 1.0], "As MODEL.PIXEL_MEAN.", legal=Each(POSITIVE, lengths=(3,))
    ),
    _of_trunk(
        "MODEL.BACKBONE.NAME", "build_resnet_backbone",
        "The ResNet of MODEL.RESNETS alone (C4), with a pyramid (FPN), or a pyramid on the trunk of MODEL.TIMM.MODEL. "
        "build_timm_backbone and the pyramids of RetinaNet need the detectron2 engine. Pretraining has no pyramid and "
        "asks it only whose trunk is meant.",
        legal=one_of(
            "build_resnet_backbone", "build_resnet_fpn_backbone", "build_retinanet_resnet_fpn_backbone",
            "build_timm_backbone", "build_timm_fpn_backbone", "build_retinanet_timm_fpn_backbone",
        ),
        elsewhere=True,
    ),
    Key(
        "MODEL.BACKBONE.FREEZE_AT", 2,
        "Stages whose weights stay fixed: 0 none, 1 the stem, 2 stem and res2, ... 5 stem to res5. Frozen stages run "
        "with FrozenBN whatever RESNETS.NORM says. In C4 the res5 of the head is never frozen.",
        engines=DETECTORS, changes=DETECTION, legal=Number(0, 5),
    ),
    _of_model(
        "MODEL.FPN.IN_FEATURES", [],
        'Stages the pyramid is built on, consecutive and ending with the deepest, e.g. ["res2", ..., "res5"].',
        legal=Each(_STAGES, types=(str,)),
    ),
    _of_model("MODEL.FPN.OUT_CHANNELS", 256, "Channels of every pyramid level.", legal=at_least(1)),
    _of_model(
        "MODEL.FPN.NORM", "", 'Norm behind the lateral and output convolutions; "" = none, with bias.',
        legal=NO_NORM_OR, elsewhere=True,
    ),
    _of_trunk(
        "MODEL.RESNETS.DEPTH", 50, "Layers. Detectron2 wants RES2_OUT_CHANNELS 64 with 18 and 34.",
        legal=one_of(18, 34, 50, 101, 152),
    ),
    _of_model(
        "MODEL.RESNETS.OUT_FEATURES", ["res4"],
        'Stages the backbone hands on: ["res4"] for C4, those of FPN.IN_FEATURES for FPN.',
    ),
    _of_trunk("MODEL.RESNETS.NUM_GROUPS", 1, "1 = ResNet, above 1 = ResNeXt.", legal=at_least(1)),
    _of_trunk(
        "MODEL.RESNETS.NORM", "FrozenBN",
        "Norm of the trunk, which its family must have. SyncBN is BN with the statistics of all processes' images; "
        "with BN each process has its own, and process 0's are saved. Pretraining needs one that learns: BN, GN or LN.",
        legal=one_of("FrozenBN", "BN", "SyncBN", "GN", "LN"), elsewhere=True,
    ),
    _of_trunk(
        "MODEL.RESNETS.WIDTH_PER_GROUP", 64, "Bottleneck width of res2 per group; doubles with every stage.",
        legal=at_least(1),
    ),
    _of_trunk(
        "MODEL.RESNETS.STRIDE_IN_1X1", True,
        "Where a bottleneck strides: True on its first 1x1 (MSRA weights), False on its 3x3 (torchvision, timm, ours).",
    ),
    _of_trunk(
        "MODEL.RESNETS.RES2_OUT_CHANNELS", 256, "Output channels of res2; doubles with every stage.", legal=at_least(1)
    ),
    _of_trunk("MODEL.RESNETS.STEM_OUT_CHANNELS", 64, "Output channels of the stem.", legal=at_least(1)),
    _detector(
        "MODEL.PROPOSAL_GENERATOR.MIN_SIZE", 0, "Proposals with a side of at most this are dropped.",
        legal=at_least(0), unit="pixels of the resized image",
    ),
    _of_model(
        "MODEL.ANCHOR_GENERATOR.SIZES", [[32, 64, 128, 256, 512]],
        "Square roots of anchor areas: one list for all feature maps or one list per map.",
        legal=Each(POSITIVE, least=1, deep=True, types=(int, float)), unit="pixels of the resized image",
    ),
    _of_model(
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.5, 1.0, 2.0]],
        "Heights over widths: one list for all feature maps or one list per map.",
        legal=Each(POSITIVE, least=1, deep=True),
    ),
    _of_model(
        "MODEL.ANCHOR_GENERATOR.OFFSET", 0.0,
        "Where the first anchor's centre lies in its cell: 0.0 the corner, 0.5 the middle.",
        legal=Number(0, 1, below=True), unit="strides",
    ),
)  # fmt: skip
