#!/usr/bin/env bash
# mpi4py 4.1.2, mpich wheel 5.0.2, torch 2.13.0: a float16 tensor can be summed by Allreduce. A bfloat16 one can be
# gathered, and not summed: it travels as MPI_BYTE (count doubled), so Allreduce is MPI_SUM on bytes and raises
# MPI_ERR_OP "operation not defined for this datatype". That a type can be sent does not mean that it can be added.
source "$(dirname "$0")/common.sh" torch==2.13.0 numpy==2.4.6 mpi4py==4.1.2 mpich==5.0.2
python - <<'PY'
import torch
from mpi4py import MPI

def can(call, kind):
    a, b = torch.ones(4, dtype=kind), torch.empty(4, dtype=kind)
    try:
        getattr(MPI.COMM_SELF, call)(a, b)
    except MPI.Exception as error:
        return error.Get_error_class() == MPI.ERR_OP and "no such sum"
    return bool((b == 1).all())

found = {str(kind): (can("Allgather", kind), can("Allreduce", kind)) for kind in (torch.float16, torch.bfloat16)}
print(MPI.Get_library_version().splitlines()[0], found)
assert found == {"torch.float16": (True, True), "torch.bfloat16": (True, "no such sum")}, found
PY
