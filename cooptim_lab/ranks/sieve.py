"""Of what comes out of a launcher, what programs have printed: processes that MPI has started for a rank print there.

The rest are the launcher's own words. What is known of them here is how Hydra's, Open MPI's and Slurm's look.
"""

from __future__ import annotations

import re

RULER = re.compile(r"[=*-]{60,}$")
BAD_NEWS = re.compile(
    r"=\s+BAD TERMINATION|YOUR APPLICATION|Primary job|(mpiexec|mpirun|orterun|prterun|prte|srun)\b.* "
    r"(noticed|detected|has exited|was unable)"
)
OWN = re.compile(r"\[(mpiexec|proxy:[\d:]+)@|(srun|slurmstepd|prterun|prted): ")


class Sieve:
    """Of one launch. Bad news is the launcher's last: what follows it are the sounds of everything being taken down."""

    def __init__(self) -> None:
        self._held = ""  # what may be the upper edge of bad news
        self._is_over = False

    def feed(self, lines: str) -> str:
        """Whole lines in, whole lines out, in their order; what looks like a beginning of bad news may come later."""
        if not lines:
            return ""
        passed = list[str]()
        for line in lines[:-1].split("\n"):
            self._is_over = self._is_over or BAD_NEWS.match(line) is not None
            if self._is_over:
                break
            if not line.strip() or RULER.match(line):
                self._held += f"{line}\n"
            elif not OWN.match(line):
                passed.append(f"{self._held}{line}\n")
                self._held = ""
        return "".join(passed)
