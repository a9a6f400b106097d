"""Where the processes of torchrun find one another, also when it has started them anew.

torchrun's agent keeps one store over all restarts, so the addresses that a killed process left there are found again
by those that come after it, who then wait for nobody. Here the first process opens a store of its own for each meeting,
and the agent's only says where. A place that an earlier start left is told from the new one by nobody answering there.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from datetime import timedelta
from typing import Any

from torch import distributed
from torch.distributed.rendezvous import rendezvous

__all__ = ["meeting"]

_TIMEOUT = timedelta(minutes=10)
_PAUSE = 0.1  # seconds between looks at where to go
_meetings = itertools.count()  # a program may train more than once


def meeting(timeout: timedelta | None = None) -> dict[str, Any]:
    """Arguments of ``init_process_group`` under torchrun; none elsewhere, where torch's own way needs no more.

    Raises:
        DistError: the others did not come.
    """
    if not distributed.is_torchelastic_launched():
        return {}
    limit = timeout or _TIMEOUT
    agents, rank, size = next(iter(rendezvous("env://", timeout=limit)))
    host, key = os.environ["MASTER_ADDR"], f"scaleprior/meeting/{next(_meetings)}"
    if rank == 0:
        store = distributed.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=limit)
        agents.set(key, str(store.port))
    else:
        port = _open_door(agents, host, key, limit)
        store = distributed.TCPStore(host, port, is_master=False, timeout=limit)
    return {"store": store, "rank": rank, "world_size": size}


def _open_door(agents: distributed.Store, host: str, key: str, limit: timedelta) -> int:
    end = time.monotonic() + limit.total_seconds()
    while time.monotonic() < end:
        port = int(agents.get(key))
        try:
            socket.create_connection((host, port), timeout=5).close()
        except OSError:  # of an earlier start
            time.sleep(_PAUSE)
        else:
            return port
    raise distributed.DistNetworkError(f"process 0 did not open a store on {host}")
