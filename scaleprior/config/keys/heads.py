"""Keys of the two stages of Faster R-CNN, the proposal network and the heads on regions, and of Mask R-CNN's masks."""

from __future__ import annotations

from functools import partial

from scaleprior.config.keys.key import DETECTION, DETECTORS, EVALUATE, FINETUNE, Key
from scaleprior.config.keys.legal import ANY, POSITIVE, SHARE, Each, Number, at_least, one_of
from scaleprior.config.keys.model import NO_NORM_OR

__all__ = ["KEYS"]

_detector = partial(Key, engines=DETECTORS, changes=DETECTION)
_of_model = partial(Key, engines=DETECTORS, changes=DETECTION, fixed=True)
_of_masks = partial(_of_model, part_of="MODEL.MASK_ON", since=2)
_training = partial(Key, engines=DETECTORS, changes=(FINETUNE,))
_testing = partial(Key, engines=DETECTORS, changes=(EVALUATE,))
_SMOOTH = "Where smooth L1 turns from square to linear; 0.0 = plain L1."
_BOX_WEIGHTS = "Weights of (dx, dy, dw, dh) in the regression targets."
_KEPT_BEFORE = "Best-scored proposals kept before NMS, per feature map and image, in"
_KEPT_AFTER = "Best-scored proposals kept after NMS, per image, all maps together, in"

_RPN = (
    _of_model(
        "MODEL.RPN.IN_FEATURES", ["res4"],
        'Feature maps to propose from: ["res4"] for C4, ["p2", ..., "p6"] for FPN (p6 = p5 subsampled by 2).',
    ),
    _training(
        "MODEL.RPN.IOU_THRESHOLDS", [0.3, 0.7],
        "IoU of an anchor with its best object: below the first = background, from the second = object, else unused. "
        "One alone divides background from objects.",
        legal=Each(SHARE, lengths=(1, 2)), elsewhere=True,
    ),
    _training(
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 256, "Anchors sampled per image for the loss.", legal=at_least(1)
    ),
    _training("MODEL.RPN.POSITIVE_FRACTION", 0.5, "Largest share of objects among them.", legal=SHARE),
    _of_model(
        "MODEL.RPN.BBOX_REG_WEIGHTS", (1.0, 1.0, 1.0, 1.0), _BOX_WEIGHTS, legal=Each(POSITIVE, lengths=(4,))
    ),
    _training("MODEL.RPN.SMOOTH_L1_BETA", 0.0, _SMOOTH, legal=at_least(0)),
    _training("MODEL.RPN.BBOX_REG_LOSS_WEIGHT", 1.0, "Factor of the regression loss within the RPN loss."),
    _training("MODEL.RPN.LOSS_WEIGHT", 1.0, "Factor of the whole RPN loss within the total."),
    _training("MODEL.RPN.PRE_NMS_TOPK_TRAIN", 12000, f"{_KEPT_BEFORE} training.", legal=at_least(1)),
    _testing("MODEL.RPN.PRE_NMS_TOPK_TEST", 6000, f"{_KEPT_BEFORE} evaluation.", legal=at_least(1)),
    _training("MODEL.RPN.POST_NMS_TOPK_TRAIN", 2000, f"{_KEPT_AFTER} training.", legal=at_least(1)),
    _testing("MODEL.RPN.POST_NMS_TOPK_TEST", 1000, f"{_KEPT_AFTER} evaluation.", legal=at_least(1)),
    _detector(
        "MODEL.RPN.NMS_THRESH", 0.7,
        "Proposals that overlap a better one of the same map by more than this IoU are dropped.", legal=SHARE,
    ),
    _of_model(
        "MODEL.RPN.CONV_DIMS", [-1],
        "Channels of the 3x3 convolutions shared by all maps; -1 = as many as come in.",
        legal=Each(Number(1, also=(-1,)), least=1),
    ),
)  # fmt: skip

_HEADS = (
    _of_model(
        "MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "Res5ROIHeads for C4, StandardROIHeads for FPN.",
        legal=one_of("Res5ROIHeads", "StandardROIHeads"), elsewhere=True,
    ),
    _of_model(
        "MODEL.ROI_HEADS.NUM_CLASSES", 80,
        "Object classes, background not counted. Left alone it follows the data; set, it has to agree with the data.",
        legal=at_least(1),
    ),
    _of_model(
        "MODEL.ROI_HEADS.IN_FEATURES", ["res4"],
        'Feature maps to pool from: ["res4"] for C4, ["p2", ..., "p5"] for FPN.',
    ),
    _training(
        "MODEL.ROI_HEADS.IOU_THRESHOLDS", [0.5],
        "Proposals from this IoU with an object on count as objects, below it as background.",
        legal=Each(SHARE, lengths=(1,)), elsewhere=True,
    ),
    _training(
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 512, "Proposals sampled per image for the loss.", legal=at_least(1)
    ),
    _training("MODEL.ROI_HEADS.POSITIVE_FRACTION", 0.25, "Largest share of objects among them.", legal=SHARE),
    _testing("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.05, "Detections need more than this score.", legal=SHARE),
    _testing(
        "MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.5,
        "Detections have at most this IoU with a better detection of their class.", legal=SHARE,
    ),
    _training("MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", True, "Add the true boxes to the proposals in training."),
    _of_model(
        "MODEL.ROI_BOX_HEAD.NAME", "", '"" for Res5ROIHeads, "FastRCNNConvFCHead" for StandardROIHeads.',
        legal=one_of("", "FastRCNNConvFCHead"), elsewhere=True,
    ),
    _of_model(
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", (10.0, 10.0, 5.0, 5.0), _BOX_WEIGHTS,
        legal=Each(POSITIVE, lengths=(4,)),
    ),
    _training("MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA", 0.0, _SMOOTH, legal=at_least(0)),
    _training("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT", 1.0, "Factor of the regression loss within the total."),
    _of_model(
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 14, "Side of the pooled square.", legal=at_least(1), unit="cells"
    ),
    _of_model(
        "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 0,
        "Sample points per cell and side; 0 = as many as the cell has feature pixels.", legal=at_least(0),
    ),
    _of_model(
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignV2",
        "ROIAlignV2 has pixel centres at half integers; ROIAlign is the older one, off by half a pixel.",
        legal=one_of("ROIAlignV2", "ROIAlign"), elsewhere=True,
    ),
    _of_model(
        "MODEL.ROI_BOX_HEAD.NUM_FC", 0, "Fully connected layers of FastRCNNConvFCHead.", legal=at_least(0)
    ),
    _of_model("MODEL.ROI_BOX_HEAD.FC_DIM", 1024, "Their width.", legal=at_least(1)),
    _of_model("MODEL.ROI_BOX_HEAD.NUM_CONV", 0, "3x3 convolutions before them.", legal=at_least(0)),
    _of_model("MODEL.ROI_BOX_HEAD.CONV_DIM", 256, "Channels of those convolutions.", legal=at_least(1)),
    _of_model(
        "MODEL.ROI_BOX_HEAD.NORM", "", 'Norm behind those convolutions; "" = none, with bias.',
        legal=NO_NORM_OR, elsewhere=True,
    ),
    _of_model("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", False, "One box per proposal instead of one per class.",
              legal=ANY),
)  # fmt: skip

_MASKS = (
    _of_model(
        "MODEL.MASK_ON", False,
        "Mask R-CNN: a head that also finds the pixels of each object; the sets need segmentations. The keys of "
        "MODEL.ROI_MASK_HEAD do nothing without it.",
        since=2,
    ),
    _of_masks(
        "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead",
        "3x3 convolutions, one transposed convolution that doubles the side, a 1x1 convolution to the masks.",
        legal=one_of("MaskRCNNConvUpsampleHead"), elsewhere=True,
    ),
    _of_masks(
        "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 14,
        "Side of the square that FPN pools for it; a mask has twice that side. C4 shares the box head's maps.",
        legal=at_least(1), unit="cells",
    ),
    _of_masks(
        "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", 0, "As MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO.",
        legal=at_least(0),
    ),
    _of_masks(
        "MODEL.ROI_MASK_HEAD.POOLER_TYPE", "ROIAlignV2", "As MODEL.ROI_BOX_HEAD.POOLER_TYPE.",
        legal=one_of("ROIAlignV2", "ROIAlign"), elsewhere=True,
    ),
    _of_masks(
        "MODEL.ROI_MASK_HEAD.NUM_CONV", 0, "3x3 convolutions; Detectron2 has 4 on FPN, none on C4.", legal=at_least(0)
    ),
    _of_masks("MODEL.ROI_MASK_HEAD.CONV_DIM", 256, "Channels of all but the last.", legal=at_least(1)),
    _of_masks(
        "MODEL.ROI_MASK_HEAD.NORM", "", 'Norm behind the 3x3 convolutions; "" = none, with bias.',
        legal=NO_NORM_OR, elsewhere=True,
    ),
    _of_masks("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", False, "One mask per object instead of one per class."),
)  # fmt: skip

KEYS = _RPN + _HEADS + _MASKS
