"""``make bench``: every benchmark, one after the other, each writing its record; then the README's tables and the docs.

python benchmarks/run.py [NAME ...]      only those
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMES = (
    "startup",
    "digits",
    "overhead",
    "mnist",
    "memory",
    "cifar10",
    "distill",
    "int8",
    "planner",
    "fold",
    "doctor_overhead",
    "doctor_steps",
    "doctor_gallery",
)


def main() -> int:
    failed = []
    for name in sys.argv[1:] or NAMES:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, str(HERE / f"{name}.py")]).returncode:
            failed.append(name)
    for page in ("tables", "docs"):
        subprocess.run([sys.executable, str(HERE / f"{page}.py"), "--write"], check=True)
    if failed:
        print("failed:", ", ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
