"""What we carry: ResNet trunks, their weights in Detectron2's names, and the card that says what they are."""

from scaleprior._lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "Card": "card",
        "Mismatch": "contract",
        "ReadOptions": "readers.facts",
        "RefusedFileError": "readers.limits",
        "ResNetSpec": "spec",
        "TimmSpec": "arch",
        "Trunk": "families",
        "apply_card": "contract",
        "build_resnet": "trunk",
        "build_trunk": "families",
        "check_contract": "contract",
        "compare_backbones": "compare",
        "config_lines": "settings",
        "convert_backbone": "convert",
        "export_backbone": "export",
        "freeze_at": "trunk",
        "from_detectron2": "names",
        "load_backbone": "weights",
        "read_backbone": "readers.read",
        "read_card": "weights",
        "save_backbone": "weights",
        "tensors_sha256": "writing",
        "to_detectron2": "names",
    },
)
