"""What the nursery imports before ranks are forked from it, so that none needs to do so again.

Nothing of it may be used before the fork: no thread, no operation of torch (but what makes an empty parameter).
"""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path

LOW_PRIORITY = 10  # niceness of the imports: a notebook that has just been opened goes first
THREAD_ENDS = 100  # looks, a hundredth of a second apart


def preload() -> None:
    """Import what ranks always need, politely, and see that no thread is left.

    Raises
    ------
    RuntimeError
        When a thread is left: a fork would copy its locks without it.
    ImportError
        Or whatever else an import has raised.
    """

    failed: list[BaseException] = []

    def imports() -> None:
        try:
            politely()
        except BaseException as error:  # noqa: BLE001 - raised again where it can be told
            failed.append(error)

    def politely() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOW_PRIORITY)  # of this thread alone
        import cloudpickle  # noqa: F401
        import sklearn.datasets  # noqa: F401
        import threadpoolctl  # noqa: F401
        import torch
        import torch._dynamo  # noqa: F401 - torch's optimizers import it: a second, and 75 MB of every rank's own

        from .. import programs  # noqa: F401
        from . import rank, spmd, surroundings  # noqa: F401

        surroundings.namespaces()  # last: what is imported later has changed them

    thread = threading.Thread(target=imports)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    gc.collect()
    gc.freeze()  # the collector of a rank would write to every object's header, and so copy every page
    for _ in range(THREAD_ENDS):
        left = len(list(Path("/proc/self/task").iterdir())) - 1
        if not left:
            return
        time.sleep(0.01)  # a thread that was joined is gone for the system a moment later
    raise RuntimeError(f"{left} threads are left by the imports: ranks cannot be forked")


def reseed() -> None:
    """Forked ranks would all draw the same numbers (Python's own generator is seeded anew by the fork itself)."""
    import numpy as np
    import torch

    np.random.seed()
    torch.seed()
