"""What a process of this package runs first, by its path: it finds the package, and goes on as one of its modules.

    python -P started.py MODULE ARGUMENTS...

Python would look for modules in the folder of the notebook first, and in `PYTHONPATH` before its own: a `queue.py` that
lies there would be imported in the standard library's place. So what `PYTHONPATH` said comes under another name and
last. Ranks find both in the notebook's order, once they are ready (carried.py).
"""

import os
import runpy
import sys
from pathlib import Path

ASIDE = "COOPTIM_PYTHONPATH"
"""Environment variable: what `PYTHONPATH` said."""


def main() -> None:
    """Run the module."""
    said = [entry for entry in os.environ.get(ASIDE, "").split(os.pathsep) if entry]
    sys.path += [entry for entry in (str(Path(__file__).parents[2]), *said) if entry not in sys.path]
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
