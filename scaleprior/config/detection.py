"""The Detectron2 keys that the embedded torchvision engine honours: same names, types and defaults as Detectron2.

A key of Detectron2's that is not declared here is refused by ``load_config`` when it is set to anything but
Detectron2's default ("needs the detectron2 engine"); so nothing is ever accepted and then ignored. The one default
that differs is ``MODEL.DEVICE``, "auto" instead of "cuda". Our own keys are in ``own.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["add_detection_config"]


def add_detection_config(cfg: CfgNode) -> None:
    """Declare every detection key on ``cfg``, each with its meaning, unit and legal values."""
    # Version of Detectron2's config format; only 2 is read.
    cfg.VERSION = 2
    # Seeds data order, augmentation, sampling and the initial weights of new layers. Negative: as 0, so that a run is
    # repeatable unless one asks otherwise (Detectron2's comment promises a random seed here, its sampler does not).
    cfg.SEED = -1
    # Where a run writes when no --out is given.
    cfg.OUTPUT_DIR = "./output"
    _add_model(cfg)
    _add_rpn(cfg)
    _add_roi_heads(cfg)
    _add_data(cfg)
    _add_solver(cfg)


def _node() -> CfgNode:
    from fvcore.common.config import CfgNode

    return CfgNode()


def _add_model(cfg: CfgNode) -> None:
    cfg.MODEL = model = _node()
    # "auto" (cuda if there is one, else cpu), "cpu", "cuda", "cuda:1", ...
    model.DEVICE = "auto"
    # A backbone (.safetensors file or scaleprior://NAME) to start from, or a trained model file to evaluate; "" = none.
    model.WEIGHTS = ""
    # Three floats each on the 0-255 scale, in the order of INPUT.FORMAT: the network sees (pixel - mean) / std.
    # The defaults are those of Detectron2's MSRA weights (BGR, std folded into conv1).
    model.PIXEL_MEAN = [103.530, 116.280, 123.675]
    model.PIXEL_STD = [1.0, 1.0, 1.0]

    model.BACKBONE = _node()
    # "build_resnet_backbone" (C4), "build_resnet_fpn_backbone" (FPN), or "build_timm_fpn_backbone" (FPN on the trunk of
    # MODEL.TIMM.MODEL).
    model.BACKBONE.NAME = "build_resnet_backbone"
    # Stages whose weights stay fixed: 0 none, 1 the stem, 2 stem and res2, ... 5 stem to res5. Frozen stages run with
    # FrozenBN whatever RESNETS.NORM says. In C4 the res5 of the head is never frozen.
    model.BACKBONE.FREEZE_AT = 2

    model.FPN = _node()
    # ResNet stages the pyramid is built on, consecutive and ending with the deepest, e.g. ["res2", ..., "res5"].
    model.FPN.IN_FEATURES = []
    # Channels of every pyramid level.
    model.FPN.OUT_CHANNELS = 256
    # Norm behind the lateral and output convolutions: "" (none, with bias), "BN", "GN".
    model.FPN.NORM = ""

    model.RESNETS = _node()
    # 18, 34, 50, 101 or 152 (Detectron2 wants RES2_OUT_CHANNELS 64 with 18 and 34).
    model.RESNETS.DEPTH = 50
    # Stages the backbone hands on: ["res4"] for C4, the FPN's IN_FEATURES for FPN.
    model.RESNETS.OUT_FEATURES = ["res4"]
    # 1 = ResNet, above 1 = ResNeXt.
    model.RESNETS.NUM_GROUPS = 1
    # "FrozenBN", "BN" or "GN".
    model.RESNETS.NORM = "FrozenBN"
    # Bottleneck width of res2 per group; doubles with every stage.
    model.RESNETS.WIDTH_PER_GROUP = 64
    # Where a bottleneck strides: True on its first 1x1 (MSRA weights), False on its 3x3 (torchvision, timm, ours).
    model.RESNETS.STRIDE_IN_1X1 = True
    # Output channels of res2 (doubles with every stage) and of the stem.
    model.RESNETS.RES2_OUT_CHANNELS = 256
    model.RESNETS.STEM_OUT_CHANNELS = 64

    model.PROPOSAL_GENERATOR = _node()
    # Proposals with a side of at most this many pixels (of the resized image) are dropped.
    model.PROPOSAL_GENERATOR.MIN_SIZE = 0

    model.ANCHOR_GENERATOR = _node()
    # Square roots of anchor areas in pixels of the resized image: one list for all feature maps or one list per map.
    model.ANCHOR_GENERATOR.SIZES = [[32, 64, 128, 256, 512]]
    # Heights over widths: one list for all feature maps or one list per map.
    model.ANCHOR_GENERATOR.ASPECT_RATIOS = [[0.5, 1.0, 2.0]]
    # Where the first anchor's centre lies in its cell, in strides: 0.0 the corner, 0.5 the middle; [0, 1).
    model.ANCHOR_GENERATOR.OFFSET = 0.0


def _add_rpn(cfg: CfgNode) -> None:
    cfg.MODEL.RPN = rpn = _node()
    # Feature maps to propose from: ["res4"] for C4, ["p2", ..., "p6"] for FPN (p6 = p5 subsampled by 2).
    rpn.IN_FEATURES = ["res4"]
    # IoU of an anchor with its best object: below the first = background, from the second = object, else unused.
    rpn.IOU_THRESHOLDS = [0.3, 0.7]
    # Anchors sampled per image for the loss, and the largest share of objects among them.
    rpn.BATCH_SIZE_PER_IMAGE = 256
    rpn.POSITIVE_FRACTION = 0.5
    # Weights of (dx, dy, dw, dh) in the regression targets.
    rpn.BBOX_REG_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
    # Where smooth L1 turns from square to linear; 0.0 = plain L1.
    rpn.SMOOTH_L1_BETA = 0.0
    # Factor of the regression loss within the RPN loss, and of the whole RPN loss within the total.
    rpn.BBOX_REG_LOSS_WEIGHT = 1.0
    rpn.LOSS_WEIGHT = 1.0
    # Best-scored proposals kept before NMS (per feature map and image) and after it (per image, all maps together).
    rpn.PRE_NMS_TOPK_TRAIN = 12000
    rpn.PRE_NMS_TOPK_TEST = 6000
    rpn.POST_NMS_TOPK_TRAIN = 2000
    rpn.POST_NMS_TOPK_TEST = 1000
    # Proposals that overlap a better one of the same map by more than this IoU are dropped.
    rpn.NMS_THRESH = 0.7
    # Channels of the 3x3 convolutions shared by all maps; -1 = as many as come in.
    rpn.CONV_DIMS = [-1]


def _add_roi_heads(cfg: CfgNode) -> None:
    cfg.MODEL.ROI_HEADS = heads = _node()
    # "Res5ROIHeads" (C4) or "StandardROIHeads" (FPN).
    heads.NAME = "Res5ROIHeads"
    # Object classes, background not counted. Left alone it follows the data; set, it has to agree with the data.
    heads.NUM_CLASSES = 80
    # Feature maps to pool from: ["res4"] for C4, ["p2", ..., "p5"] for FPN.
    heads.IN_FEATURES = ["res4"]
    # One IoU: proposals from it on count as objects, below it as background.
    heads.IOU_THRESHOLDS = [0.5]
    # Proposals sampled per image for the loss, and the largest share of objects among them.
    heads.BATCH_SIZE_PER_IMAGE = 512
    heads.POSITIVE_FRACTION = 0.25
    # Detections need more than this score in [0, 1] ...
    heads.SCORE_THRESH_TEST = 0.05
    # ... and at most this IoU with a better detection of their class.
    heads.NMS_THRESH_TEST = 0.5
    # Add the true boxes to the proposals in training.
    heads.PROPOSAL_APPEND_GT = True

    cfg.MODEL.ROI_BOX_HEAD = box = _node()
    # "" for Res5ROIHeads, "FastRCNNConvFCHead" for StandardROIHeads.
    box.NAME = ""
    # Weights of (dx, dy, dw, dh) in the regression targets.
    box.BBOX_REG_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
    # Where smooth L1 turns from square to linear; 0.0 = plain L1.
    box.SMOOTH_L1_BETA = 0.0
    box.BBOX_REG_LOSS_WEIGHT = 1.0
    # Side of the pooled square, in cells.
    box.POOLER_RESOLUTION = 14
    # Sample points per cell and side; 0 = as many as the cell has feature pixels.
    box.POOLER_SAMPLING_RATIO = 0
    # "ROIAlignV2" (pixel centres at half integers) or "ROIAlign" (the older one, off by half a pixel).
    box.POOLER_TYPE = "ROIAlignV2"
    # Fully connected layers and their width, 3x3 convolutions before them and their channels (FastRCNNConvFCHead).
    box.NUM_FC = 0
    box.FC_DIM = 1024
    box.NUM_CONV = 0
    box.CONV_DIM = 256
    # Norm behind those convolutions: "" (none, with bias), "BN", "GN".
    box.NORM = ""
    # One box per proposal instead of one per class.
    box.CLS_AGNOSTIC_BBOX_REG = False


def _add_data(cfg: CfgNode) -> None:
    cfg.INPUT = _node()
    # Length of the shorter image side in training: a list to choose from, or with "range" the (low, high) to draw from.
    cfg.INPUT.MIN_SIZE_TRAIN = (800,)
    # "choice" or "range".
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
    # The longer side never exceeds this.
    cfg.INPUT.MAX_SIZE_TRAIN = 1333
    # The same for evaluation; MIN_SIZE_TEST 0 = images as they are.
    cfg.INPUT.MIN_SIZE_TEST = 800
    cfg.INPUT.MAX_SIZE_TEST = 1333
    # "horizontal", "vertical" (each with probability 1/2) or "none".
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    # "BGR" or "RGB": the order of the channels the network sees.
    cfg.INPUT.FORMAT = "BGR"

    cfg.DATASETS = _node()
    # Names of the sets to train on (joined) and to evaluate on (each by itself): those of SCALEPRIOR.DATASETS, and
    # coco_2017_train, coco_2017_val, coco_2014_train, ... under the folder in $DETECTRON2_DATASETS.
    cfg.DATASETS.TRAIN = ()
    cfg.DATASETS.TEST = ()

    cfg.DATALOADER = _node()
    # Threads that prepare images ahead of the step; 0 = prepare in the training loop. No effect on results.
    cfg.DATALOADER.NUM_WORKERS = 4
    # Batches hold only landscape or only portrait images, which saves padding.
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = True
    # Leave images without any (non-crowd) box out of training.
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True

    cfg.TEST = _node()
    # Most detections kept per image.
    cfg.TEST.DETECTIONS_PER_IMAGE = 100


def _add_solver(cfg: CfgNode) -> None:
    cfg.SOLVER = solver = _node()
    # "WarmupMultiStepLR" or "WarmupCosineLR".
    solver.LR_SCHEDULER_NAME = "WarmupMultiStepLR"
    # Steps of training, and images per step.
    solver.MAX_ITER = 40000
    solver.IMS_PER_BATCH = 16
    # Learning rate after warmup, and (cosine only) at the end.
    solver.BASE_LR = 0.001
    solver.BASE_LR_END = 0.0
    # SGD's momentum in [0, 1), and whether it is Nesterov's.
    solver.MOMENTUM = 0.9
    solver.NESTEROV = False
    # Decay of weights, of the gains and biases of norm layers, and of other biases (None = as weights).
    solver.WEIGHT_DECAY = 0.0001
    solver.WEIGHT_DECAY_NORM = 0.0
    solver.WEIGHT_DECAY_BIAS = None
    # Biases learn at BASE_LR times this.
    solver.BIAS_LR_FACTOR = 1.0
    # WarmupMultiStepLR: at each of these steps the rate is multiplied by GAMMA.
    solver.GAMMA = 0.1
    solver.STEPS = (30000,)
    # Over the first WARMUP_ITERS steps the rate is multiplied by a factor that grows from WARMUP_FACTOR to 1
    # ("linear"), or stays at it ("constant").
    solver.WARMUP_FACTOR = 1.0 / 1000
    solver.WARMUP_ITERS = 1000
    solver.WARMUP_METHOD = "linear"
    # Steps between checkpoints, from which an interrupted run goes on; 1 = every step, 0 = only at the end.
    solver.CHECKPOINT_PERIOD = 5000

    solver.CLIP_GRADIENTS = _node()
    solver.CLIP_GRADIENTS.ENABLED = False
    # "value": every element into [-CLIP_VALUE, CLIP_VALUE]; "norm": each parameter's gradient, by itself, to a
    # NORM_TYPE norm of at most CLIP_VALUE (Detectron2's meaning, not the norm over all parameters).
    solver.CLIP_GRADIENTS.CLIP_TYPE = "value"
    solver.CLIP_GRADIENTS.CLIP_VALUE = 1.0
    solver.CLIP_GRADIENTS.NORM_TYPE = 2.0

    solver.AMP = _node()
    # Mixed precision: float16 with loss scaling on cuda, bfloat16 on cpu.
    solver.AMP.ENABLED = False
