"""Keys of the detection data: sizes and channels of images, data sets, loading, evaluation."""

from __future__ import annotations

from functools import partial

from scaleprior.config.keys.key import (
    DETECTION,
    DETECTORS,
    DETECTRON2,
    EVALUATE,
    EVERYBODY,
    FINETUNE,
    PRETRAIN,
    TORCHVISION,
    Key,
)  # fmt: skip
from scaleprior.config.keys.legal import Anything, Each, Number, at_least, one_of

__all__ = ["KEYS", "OWN"]

_training = partial(Key, engines=DETECTORS, changes=(FINETUNE,))
_testing = partial(Key, engines=DETECTORS, changes=(EVALUATE,))

KEYS = (
    _training(
        "INPUT.MIN_SIZE_TRAIN", (800,),
        'Length of the shorter image side in training: a list to choose from, or with "range" the (low, high) to draw '
        "from.",
        legal=Each(at_least(1), least=1), unit="pixels",
    ),
    _training(
        "INPUT.MIN_SIZE_TRAIN_SAMPLING", "choice", "How a training size is drawn.", legal=one_of("choice", "range")
    ),
    _training(
        "INPUT.MAX_SIZE_TRAIN", 1333, "The longer side never exceeds this.", legal=at_least(1), unit="pixels"
    ),
    _testing(
        "INPUT.MIN_SIZE_TEST", 800, "The shorter side in evaluation; 0 = images as they are.",
        legal=at_least(0), unit="pixels",
    ),
    _testing(
        "INPUT.MAX_SIZE_TEST", 1333, "The longer side in evaluation never exceeds this.",
        legal=at_least(1), unit="pixels",
    ),
    _training(
        "INPUT.RANDOM_FLIP", "horizontal", "Mirrored with probability 1/2.",
        legal=one_of("horizontal", "vertical", "none"),
    ),
    Key(
        "INPUT.FORMAT", "BGR", "The order of the channels the network sees.",
        engines=EVERYBODY, changes=(PRETRAIN, *DETECTION), legal=one_of("BGR", "RGB"), elsewhere=True,
        fixed=True,
    ),
    _training(
        "INPUT.MASK_FORMAT", "polygon",
        "How the true masks are cut out for the mask head's loss: polygon cuts and fills the polygons themselves, "
        "bitmask resamples the masks in the image's pixels, as masks in RLE need it.",
        legal=one_of("polygon", "bitmask"), part_of="MODEL.MASK_ON", since=2,
    ),
    _training(
        "DATASETS.TRAIN", (),
        "Names of the sets to train on (joined): those of SCALEPRIOR.DATASETS, and coco_2017_train, coco_2017_val, "
        "coco_2014_train, ... under the folder in $DETECTRON2_DATASETS.",
        legal=Each(Anything("names of data sets"), types=(str,)),
    ),
    _testing(
        "DATASETS.TEST", (), "Names of the sets to evaluate on, each by itself.",
        legal=Each(Anything("names of data sets"), types=(str,)),
    ),
    Key(
        "DATALOADER.NUM_WORKERS", 4,
        "Threads (with Detectron2: processes) that prepare images ahead of the step; 0 = prepare in the training loop. "
        "No effect on results.",
        engines=DETECTORS, changes=(), legal=at_least(0),
    ),
    _training(
        "DATALOADER.ASPECT_RATIO_GROUPING", True,
        "Batches hold only landscape or only portrait images, which saves padding.",
    ),
    _training(
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS", True, "Leave images without any (non-crowd) box out of training."
    ),
    _testing("TEST.DETECTIONS_PER_IMAGE", 100, "Most detections kept per image.", legal=at_least(1)),
)  # fmt: skip

OWN = (
    Key(
        "SCALEPRIOR.DATASETS", [],
        "Own data sets: a list of [name, path of the COCO JSON, image root]. The root is a folder, a tar or a glob of "
        "tars.",
        engines=DETECTORS, changes=DETECTION, by_content=True, legal=Anything("a list of [name, JSON, image root]"),
    ),
    Key(
        "SCALEPRIOR.MINIVAL_IDS", "",
        "File of COCO 2014's minival image ids (one a line, or a JSON list), for the sets coco_2014_minival_8k and "
        'coco_2014_valminusminival_8k. "" = $DETECTRON2_DATASETS/coco/annotations/minival_8k_ids.txt.',
        engines=DETECTORS, changes=DETECTION, by_content=True,
    ),
    Key(
        "SCALEPRIOR.DROP_BAD", "none",
        "What is left out of sets whose JSON has annotations that cannot be used (no box or one without extent, an "
        "unknown image or category, ignore, ...) or boxes outside their image: none = nothing, it is an error; "
        "annotations = those; images = their images, with all that is in them. Counted in a warning and listed in "
        "dropped.json, in the run's folder.",
        engines=DETECTORS, changes=DETECTION, legal=one_of("none", "annotations", "images"), since=2,
    ),
    Key(
        "SCALEPRIOR.IMAGE_CACHE_MB", 1024,
        "Decoded images kept in memory, per data set; 0 = none. Those on the disk (SCALEPRIOR.IMAGE_STORE_MB) need no "
        "place here. No effect on results. Detectron2's loader keeps none.",
        engines=(TORCHVISION,), changes=(), legal=at_least(0), unit="megabytes of 2**20 bytes",
    ),
    Key(
        "SCALEPRIOR.IMAGE_STORE_MB", 0,
        "Decoded images kept on the disk in $SCALEPRIOR_HOME/images, once for all processes of the machine: what all "
        "sets together may take there; 0 = none. Sets that nobody uses give way to others, the longest unused first. "
        "The cells of a study take 2048 unless this key is set. With Detectron2 for its own mapper; the engines share "
        "no pixels, as their decoders differ. No effect on results.",
        engines=DETECTORS, changes=(), legal=at_least(0), unit="megabytes of 2**20 bytes", since=2,
    ),
    Key(
        "SCALEPRIOR.STEP_MODE", "eager",
        "How the kernels of a training step come about. eager = one after the other as the code asks for them; graph = "
        "for each size of batches recorded once as a CUDA graph, with memory of its own, and from then on started as "
        "one, for images so small that a GPU waits for its host (one process, no masks, no BN that learns in the "
        "head). No effect on results but in the last bits.",
        engines=(TORCHVISION,), changes=(), legal=one_of("eager", "graph"), since=2,
    ),
    Key(
        "SCALEPRIOR.STRICT_IMAGES", False,
        "Do not read images that are out of order without harm to their pixels, such as a JPEG with spare bytes before "
        "its end marker: an error in detection, unreadable in pretraining. Damaged images are that anyway.",
        engines=EVERYBODY, changes=(PRETRAIN,), since=2,
    ),
    Key(
        "SCALEPRIOR.CONTRACT", "strict",
        "What a contradiction to the card of a backbone is: strict = an error; warn = a warning, and what the config "
        "says holds. On the detectron2 engine warn also loads what fits of a trunk that was changed inside, and says "
        "what does not. No effect on the results of what strict lets through.",
        engines=DETECTORS, changes=(), legal=one_of("strict", "warn"), since=2,
    ),
    Key(
        "SCALEPRIOR.START", "backbone",
        "What MODEL.WEIGHTS is, in fine-tuning: a backbone, or a whole detector. Of that all tensors that fit are "
        "taken; the others, as those of another number of classes, are named and start fresh. The row of such a run "
        "has no number of pretraining images, and studies refuse it.",
        engines=(DETECTRON2,), changes=(FINETUNE,), legal=one_of("backbone", "detector"), since=2,
    ),
    Key(
        "SCALEPRIOR.AMP_DTYPE", "auto",
        "Numbers of SOLVER.AMP: float16, whose range is small, so that the loss is scaled, or bfloat16, which has the "
        "range of float32 and fewer digits; auto = float16 on cuda, bfloat16 on cpu. Without SOLVER.AMP.ENABLED it "
        "means nothing.",
        engines=DETECTORS, changes=(FINETUNE,), legal=one_of("auto", "float16", "bfloat16"), since=2,
    ),
    Key(
        "SCALEPRIOR.RESULTS", "",
        'A CSV file that every evaluation appends a row to, for `scaleprior laws fit`; "" = none.',
        engines=DETECTORS, changes=(),
    ),
    Key(
        "MODEL.TIMM.MODEL", "",
        "Trunk for MODEL.BACKBONE.NAME build_timm_backbone, build_timm_fpn_backbone and "
        "build_retinanet_timm_fpn_backbone: resnet18 ... resnet152, or a trunk that MODEL.RESNETS cannot describe "
        "(BiT's resnetv2_50x1_bit, CLIP's resnet50_clip, convnext_tiny, ...). MODEL.RESNETS.OUT_FEATURES and NORM and "
        "MODEL.BACKBONE.FREEZE_AT hold for it, too; the other keys of MODEL.RESNETS have no meaning there. "
        'In pretraining any of these names means the trunk, too. "" = none, as the ResNets\' builders want it.',
        engines=EVERYBODY, changes=(PRETRAIN, *DETECTION), fixed=True,
    ),
    Key(
        "MODEL.NORM_EPS", -1.0,
        "What the trunk's norms add to the variance; -1 = what its family's do (1e-5; ConvNeXt's 1e-6). The card of a "
        "backbone whose norms have another eps sets it. Detectron2's own trainers build 1e-5 whatever it says; ours "
        "(scaleprior.d2.Trainer) and both engines honour it.",
        engines=EVERYBODY, changes=(PRETRAIN, *DETECTION), legal=Number(0, also=(-1,)), fixed=True, since=2,
    ),
)  # fmt: skip
