"""How we learn: the multi-label loss, the loader, the trainer, and evaluation on held-out images.

The package can be called: ``scaleprior.pretrain(...)`` is :func:`scaleprior.pretrain.call.pretrain`.
"""

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports, make_callable

if TYPE_CHECKING:
    from scaleprior.pretrain.call import pretrain as pretrain
    from scaleprior.pretrain.costs.dry_run import dry_run as dry_run
    from scaleprior.pretrain.costs.estimate import RunCost as RunCost
    from scaleprior.pretrain.evaluation.average_precision import average_precision as average_precision
    from scaleprior.pretrain.losses.logistic import (
        known_logistic_loss as known_logistic_loss,
        sparse_logistic_loss as sparse_logistic_loss,
    )
    from scaleprior.pretrain.metrics import LabelMetrics as LabelMetrics, PretrainMetrics as PretrainMetrics
    from scaleprior.pretrain.optim.schedule import Schedule as Schedule
    from scaleprior.pretrain.result import PretrainResult as PretrainResult, evaluate_pretrained as evaluate_pretrained

lazy_exports(__name__)
make_callable(__name__)
