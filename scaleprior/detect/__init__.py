"""What we measure: engines that fine-tune and evaluate detectors, COCO-format data, COCO AP.

The package can be called: ``scaleprior.detect(...)`` is :func:`scaleprior.detect.call.detect`.
"""

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports, make_callable

if TYPE_CHECKING:
    from scaleprior.detect.calibration import Calibration as Calibration, ReliabilityBin as ReliabilityBin
    from scaleprior.detect.call import DetectRun as DetectRun, detect as detect
    from scaleprior.detect.data.coco import DetectionSet as DetectionSet, load_coco as load_coco
    from scaleprior.detect.data.problems import Problem as Problem
    from scaleprior.detect.data.views.export import export_detections as export_detections
    from scaleprior.detect.data.views.page import write_detection_page as write_detection_page
    from scaleprior.detect.data.views.statistics import (
        ClassCount as ClassCount,
        DetectionStatistics as DetectionStatistics,
        detection_statistics as detection_statistics,
    )
    from scaleprior.detect.engines import (
        Engine as Engine,
        get_engine as get_engine,
        known_engines as known_engines,
        resolve_auto as resolve_auto,
    )
    from scaleprior.detect.evaluate import coco_ap as coco_ap
    from scaleprior.detect.faster_rcnn.model import build_detector as build_detector
    from scaleprior.detect.faster_rcnn.model_file import LoadReport as LoadReport
    from scaleprior.detect.metrics import ClassAP as ClassAP, DetectionResult as DetectionResult
    from scaleprior.detect.score import score_detections as score_detections

lazy_exports(__name__)
make_callable(__name__)
