"""What the hardware is and what it can do: `detect` reads what this process may use, instantly and without torch.

Imports nothing heavy: psutil, numpy, threadpoolctl and pynvml are loaded only when `detect()` is called.
"""

# Imported at once, not on first use: `detect` is a function here and a module's name too, and the function must win.
from .describe import rows, size, summary
from .detect import Hardware, allowed_cpus, detect, find_mpiexec

__all__ = ["Hardware", "allowed_cpus", "detect", "find_mpiexec", "rows", "size", "summary"]
