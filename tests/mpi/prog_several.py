"""Several programs, one after the other, on ranks that are started once: starting them takes longer than most run."""

from __future__ import annotations

import runpy
import sys

from mpi4py import MPI

for path in sys.argv[1:]:
    if MPI.COMM_WORLD.Get_rank() == 0:
        print(f"{path}:", flush=True)
    runpy.run_path(path, run_name="__main__")
    MPI.COMM_WORLD.Barrier()
