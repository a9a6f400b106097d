"""How we learn: the multi-label loss, the loader, the trainer, and evaluation on held-out images."""

from scaleprior._lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "PretrainResult": "run",
        "Schedule": "schedule",
        "average_precision": "evaluation",
        "evaluate_pretrained": "run",
        "pretrain": "run",
        "sparse_logistic_loss": "loss",
    },
)
