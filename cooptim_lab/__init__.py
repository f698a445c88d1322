"""cooptim_lab: see what hardware and software do to each other when a neural network is trained.

Public names are imported on first use, so that `import cooptim_lab` costs next to nothing and loads neither torch,
IPython nor mpi4py. The notebook's face lives in `cooptim_magics`; this package is whole without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {  # public name -> the module it lives in
    "InputError": "errors",
    "LabError": "errors",
    "PoolError": "errors",
    "RankFailure": "errors",
    "RunStopped": "errors",
    "Task": "task",
    "digits": "data.datasets",
    "detect": "hardware",
    "RankPool": "ranks.pool",
    "Run": "runs.run",
    "Result": "runs.result",
    "train": "ways",
    "train_subnets": "ways",
    "train_sharded": "ways",
    "resume": "ways",
    "compare": "studies.compare",
    "compare_seeds": "studies.seeds",
    "measure_speedup": "studies.speedup",
    "measure_costs": "studies.costs",
    "measure_and_simulate": "studies.simulate",
    "measure_ceilings": "studies.ceilings",
    "tune": "codesign.tune",
    "Plan": "levers",
    "Lever": "levers",
    "apply": "levers",
    "parallel_calculate": "calculate",
    "distributed_calculate": "calculate",
}
__all__ = sorted([*_HOME, "__version__"])  # noqa: PLE0605 - the list is the table above

if TYPE_CHECKING:
    from .calculate import distributed_calculate, parallel_calculate
    from .codesign.tune import tune
    from .data.datasets import digits
    from .errors import InputError, LabError, PoolError, RankFailure, RunStopped
    from .hardware import detect
    from .levers import Lever, Plan, apply
    from .ranks.pool import RankPool
    from .runs.result import Result
    from .runs.run import Run
    from .studies.ceilings import measure_ceilings
    from .studies.compare import compare
    from .studies.costs import measure_costs
    from .studies.seeds import compare_seeds
    from .studies.simulate import measure_and_simulate
    from .studies.speedup import measure_speedup
    from .task import Task
    from .ways import resume, train, train_sharded, train_subnets


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value  # the next use finds it without coming here
    return value


def __dir__() -> list[str]:
    return __all__


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext cooptim_lab`: hand over to the face."""
    import_module("cooptim_magics").register(shell)


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext cooptim_lab`: take the face away again."""
    import_module("cooptim_magics").unregister(shell)
