"""What runs the cells of a study, and where."""

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from scaleprior.study.executors.executor import (
        Executor as Executor,
        get_executor as get_executor,
        known_executors as known_executors,
    )
    from scaleprior.study.executors.local import LocalExecutor as LocalExecutor, available_cores as available_cores

lazy_exports(__name__)
