"""Every family of models through forget and audit: writes results/families.json, from which docs/families.md is made.

    OMP_NUM_THREADS=1 python experiments/families.py [FAMILY ...]

Random models of some ten thousand weights. Named families alone are tried again and the others kept; without names,
all are: 20 minutes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from common import RESULTS, SCHEMA

from expunge.errors import first_line
from expunge.records.run import environment
from expunge.testing.families import FAMILIES, small_model, try_family

STORED = RESULTS / "families.json"
TEXTS = [f"Where does {who} live? {who} lives in Town {who[::-1]}." for who in ("Ada", "Bo", "Cy", "Di", "Ed")]
NAMES = {"forget": ("Ada", "Bo", "Cy", "Di"), "retain": ("Ed", "Flo", "Gus", "Hal"), "holdout": ("Kim", "Lee", "Mo")}


def rows_in(folder: Path) -> dict[str, Path]:
    """Files of questions, some longer than others."""
    found = {}
    for split, names in NAMES.items():
        found[split] = folder / f"{split}.jsonl"
        rows = [{"question": f"Where does {who} live?", "answer": f"{who} lives in Town {who[::-1]}{' now' * (i % 3)}."}
                for i, who in enumerate(names)]
        found[split].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return found


def tried(family: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        place, began = Path(name), time.perf_counter()
        try:
            small_model(family, TEXTS).save(place / "model")
        except Exception as error:  # this version of transformers does not have it, or builds it another way
            return {"not built": first_line(error)}
        found: dict[str, Any] = dict(try_family(place / "model", rows_in(place), place / "out"))
        return found | {"seconds": round(time.perf_counter() - began, 1)}


def main() -> None:
    warnings.simplefilter("ignore")
    stored: dict[str, Any] = json.loads(STORED.read_text()) if STORED.exists() else {"families": {}}
    for family in sys.argv[1:] or FAMILIES:
        stored["families"][family] = tried(family)
        print(family, json.dumps(stored["families"][family]), flush=True)
        stored = {"schema": SCHEMA, "environment": environment(), "families": dict(sorted(stored["families"].items()))}
        STORED.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
