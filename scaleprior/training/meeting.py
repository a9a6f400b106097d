"""Where processes find one another, also a second time, and when torchrun has started them anew.

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
_meetings = itertools.count()
_stores: dict[tuple[str, ...], tuple[distributed.Store, int, int]] = {}  # by where they are, with rank and size


def meeting(timeout: timedelta | None = None) -> dict[str, Any]:
    """Arguments of ``init_process_group`` for processes that the environment tells of one another.

    A program may train more than once. Each meeting has names of its own in one store that stays open: a process that
    is early at the next meeting would otherwise come to the store of the last one, which the first process is about to
    close, and both would wait for ever.

    Raises:
        DistError: the others did not come.
    """
    limit, number = timeout or _TIMEOUT, next(_meetings)
    if distributed.is_torchelastic_launched():
        return _meeting_of_agents(limit, number)
    place = tuple(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"))
    if place not in _stores:
        _stores[place] = next(iter(rendezvous("env://", timeout=limit)))
    store, rank, size = _stores[place]
    return {"store": distributed.PrefixStore(f"scaleprior/{number}", store), "rank": rank, "world_size": size}


def _meeting_of_agents(limit: timedelta, number: int) -> dict[str, Any]:
    agents, rank, size = next(iter(rendezvous("env://", timeout=limit)))
    host, key = os.environ["MASTER_ADDR"], f"scaleprior/meeting/{number}"
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
