"""Every benchmark, one after another, each in a process of its own.

    python -m benchmarks            # all: about twenty minutes on two cores that do nothing else
    python -m benchmarks sweep      # one

Each prints its ratios against a named peer, measured in the same run, beside its targets.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))


def main(names: list[str]) -> int:
    """Run the benchmarks called `names`; return 2 for an unknown one, 1 if any failed or missed a target."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}: expected one of {', '.join(NAMES)}", file=sys.stderr)
        return 2
    # Benchmarks set their own numbers of threads.
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    failed = []
    for name in names or NAMES:
        print(f"\n== {name}: python benchmarks/{name}.py", flush=True)
        if subprocess.run([sys.executable, FOLDER / f"{name}.py"], env=environment, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed, or missed a target: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
