"""What runs the cells of a study."""

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from scaleprior.study.executors.local import (
        Executor as Executor,
        LocalExecutor as LocalExecutor,
        available_cores as available_cores,
    )

lazy_exports(__name__)
