"""ScalePrior: what more pretraining data is worth to a detector, and how to get that worth into Detectron2.

Made for ``import scaleprior as sp``: the names below are imported when they are first used, so that the import itself
is immediate. docs/python.md shows them at work.
"""

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports
from scaleprior._version import __version__ as __version__

if TYPE_CHECKING:
    # The rooms. ``scaleprior.d2`` is not among them: importing it changes Detectron2, so it is asked for by name.
    from scaleprior import (
        backbones as backbones,
        config as config,
        corpus as corpus,
        errors as errors,
        laws as laws,
        model_zoo as model_zoo,
        study as study,
        training as training,
    )
    from scaleprior._lazy import CallablePackage

    # The nouns and verbs of a user.
    from scaleprior.backbones.backbone import convert as convert, load_backbone as load_backbone
    from scaleprior.corpus.corpus import Corpus as Corpus
    from scaleprior.detect.call import detect as _detect
    from scaleprior.laws.compare import compare_laws as compare_laws
    from scaleprior.laws.fit import fit_law as fit_law
    from scaleprior.preflight import check as check
    from scaleprior.pretrain.call import pretrain as _pretrain
    from scaleprior.study.study import Study as Study

    # Two rooms that are verbs as well.
    detect = CallablePackage(_detect)
    pretrain = CallablePackage(_pretrain)

lazy_exports(__name__)
