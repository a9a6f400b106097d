"""What we measure: engines that fine-tune and evaluate detectors, COCO-format data, COCO AP."""

from scaleprior._lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "DetectionSet": "data.coco",
        "Engine": "engines",
        "LoadReport": "faster_rcnn.model_file",
        "build_detector": "faster_rcnn.model",
        "coco_ap": "evaluate",
        "get_engine": "engines",
        "known_engines": "engines",
        "load_coco": "data.coco",
        "resolve_auto": "engines",
    },
)
