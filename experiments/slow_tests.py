"""Which tests are marked slow: tests/slow.txt, from the times of whole runs.

    python -m pytest -n 2 --junitxml=times.xml          # everything, on an idle machine
    python experiments/slow_tests.py times.xml --above 1.3

Lines of tests that the run does not hold are kept, and so are lines that name a whole file.
"""

from __future__ import annotations

import argparse
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tests" / "slow.txt"


def node(classname: str, name: str) -> str:
    """The id of a test as pytest prints it: file::test, or file::Class::test."""
    parts = classname.split(".")
    for length in range(len(parts), 0, -1):
        file = Path(*parts[:length]).with_suffix(".py")
        if (ROOT / file).is_file():
            return "::".join([file.as_posix(), *parts[length:], name])
    raise SystemExit(f"{classname} is no file below {ROOT}: run pytest from there.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("times", type=Path, nargs="+", help="JUnit files of pytest")
    parser.add_argument("--above", type=float, required=True, help="seconds from which a test is slow")
    given = parser.parse_args()
    took = {node(case.get("classname", ""), case.get("name", "")): float(case.get("time", 0))
            for path in given.times for case in ET.parse(path).iter("testcase")}
    known = LIST.read_text(encoding="utf-8").splitlines() if LIST.is_file() else []
    files = {line for line in known if line and "::" not in line}
    kept = {line for line in known if line and line not in took}
    slow = {name for name, seconds in took.items() if seconds >= given.above and name.partition("::")[0] not in files}
    LIST.write_text("\n".join(sorted(files | kept | slow)) + "\n", encoding="utf-8")
    left = sum(seconds for name, seconds in took.items() if name not in slow and name.partition("::")[0] not in files)
    print(f"{len(slow)} tests and {len(files)} files are slow; the others took {left:.0f} s of "
          f"{sum(took.values()):.0f} s.")


if __name__ == "__main__":
    main()
