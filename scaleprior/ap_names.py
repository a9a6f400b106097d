"""The numbers of COCO, in [0, 100]: how columns and attributes call them, and how COCO and JSON files do."""

from __future__ import annotations

__all__ = ["AP_NAMES", "AR_NAMES"]

AP_NAMES = {
    "ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_small": "APs", "ap_medium": "APm", "ap_large": "APl",
}  # fmt: skip
"""In COCO's order: over IoU 0.50 to 0.95, at 0.50, at 0.75; of objects below 32^2, below 96^2, from 96^2 pixels."""

AR_NAMES = {
    "ar1": "AR1", "ar10": "AR10", "ar100": "AR100", "ar_small": "ARs", "ar_medium": "ARm", "ar_large": "ARl",
}  # fmt: skip
"""In COCO's order: recall over IoU 0.50 to 0.95 of the best 1, 10 and 100 of a class in an image; of 100 by size."""
