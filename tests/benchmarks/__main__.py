"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from cooptim_lab import hardware

NAMES = (
    "load_ext", "compare", "ranks", "subnets", "sharded", "costs", "examination", "busy", "merging", "codesign",
    "prediction", "live", "shared", "laws", "simulate", "simulated", "many",
)  # fmt: skip

SCORED = ("laws", "simulate")
"""Those that are scored on tables."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones: {', '.join(NAMES)}; all when left out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here")
    parser.add_argument("--tables", type=Path, metavar="FILE", help="laws, simulate: score these, not the published")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark {unknown[0]}: choose from {', '.join(NAMES)}")
    print(hardware.summary(hardware.detect()), flush=True)
    rows = []
    for name in arguments.names or NAMES:
        given = [arguments.tables] if arguments.tables and name in SCORED else []
        for row in import_module(f"tests.benchmarks.{name}").rows(*given):
            rows.append(row)
            verdict = "holds" if row.holds else "FALLS SHORT"
            print(
                f"{row.name}: ours {row.ours:.3f} {row.unit}, other {row.other:.3f} {row.unit}, ratio {row.ratio:.2f}"
            )
            print(f"    reach {row.reach}: {verdict}. {row.note}", flush=True)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
