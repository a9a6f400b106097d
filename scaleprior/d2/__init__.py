"""The Detectron2 plugin: ``import scaleprior.d2`` registers everything.

After it, in any program that uses Detectron2:

- ``MODEL.WEIGHTS`` may be a backbone file of ScalePrior's or ``scaleprior://NAME``; one that does not fit completely,
  or that the model contradicts, is an error (:func:`contract_mode` makes it a warning);
- ``build_model`` notes on a model the channel order of the config that it was built from;
- ``MODEL.BACKBONE.NAME`` may be ``build_timm_backbone``, ``build_timm_fpn_backbone`` or
  ``build_retinanet_timm_fpn_backbone`` (with ``add_scaleprior_config(cfg)``).

See docs/detectron2.md.
"""

from __future__ import annotations

from scaleprior.errors import UserError

_GUIDE = "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"


class Detectron2Error(UserError, ImportError):
    """Detectron2 is not there, or cannot be used here."""


try:
    from detectron2.utils.file_io import PathManager

    from scaleprior.backbones.zoo import register
    from scaleprior.config import add_scaleprior_config
    from scaleprior.d2.configs.model_zoo import with_backbone
    from scaleprior.d2.data.datasets import register_coco, register_datasets
    from scaleprior.d2.data.loader import ResumableLoader
    from scaleprior.d2.trainer import Trainer
    from scaleprior.d2.trunks import timm_backbones  # noqa: F401 (registers the backbones)
    from scaleprior.d2.weights.built import note_configs
    from scaleprior.d2.weights.checkpoint import extend_checkpointer
    from scaleprior.d2.weights.contract import apply_card, check_contract, check_model, contract_mode
    from scaleprior.d2.weights.matching import match_trunk
except ModuleNotFoundError as e:
    if (e.name or "").split(".")[0] == "scaleprior":
        raise
    what = "Detectron2 is not installed" if e.name == "detectron2" else f"Detectron2 cannot be imported: {e}"
    raise Detectron2Error(what, hint=f"install it by {_GUIDE}") from e
except UserError:
    raise
except Exception as e:
    # Whatever an old or broken Detectron2, torch or torchvision raises while it is imported, it means the same.
    raise Detectron2Error(
        f"this Detectron2 cannot be used with this torch: {type(e).__name__}: {' '.join(str(e).split())[:200]}",
        hint=f"install a pair that fits by {_GUIDE}; `python -m detectron2.utils.collect_env` shows yours",
    ) from e

extend_checkpointer()
note_configs()
register(PathManager)

__all__ = [
    "Detectron2Error",
    "ResumableLoader",
    "Trainer",
    "add_scaleprior_config",
    "apply_card",
    "check_contract",
    "check_model",
    "contract_mode",
    "match_trunk",
    "register_coco",
    "register_datasets",
    "with_backbone",
]
