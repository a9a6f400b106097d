"""What we measure: engines that fine-tune and evaluate detectors, COCO-format data, COCO AP."""

from scaleprior._lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "DetectionSet": "coco_data",
        "Engine": "engines",
        "LoadReport": "weights",
        "build_detector": "model",
        "coco_ap": "evaluate",
        "get_engine": "engines",
        "known_engines": "engines",
        "load_coco": "coco_data",
        "resolve_auto": "engines",
    },
)
