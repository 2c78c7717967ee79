"""What the tests start under a launcher: commands from a JSON file, one after the other, in every process.

Arguments: the file of [{"words": [...], "die_at": step or null}, ...], and a folder for what each process met.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

warnings.simplefilter("error")

from expunge import processes  # noqa: E402
from expunge.cli.main import app  # noqa: E402
from expunge.training import loop  # noqa: E402


def die_at(step: int) -> None:
    """Arrange that the last process is killed when it logs this step."""

    def dumps(line: Any) -> str:
        if line["step"] == step and processes.rank() == processes.count() - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return json.dumps(line)

    class Json:
        pass

    Json.dumps = staticmethod(dumps)  # type: ignore[attr-defined]
    loop.json = Json  # type: ignore[attr-defined]


def main(file: Path, folder: Path) -> None:
    processes.PATIENCE = 0.0  # nobody is ended here: one refusal follows the other
    codes = []
    with processes.closing_group():
        for job in json.loads(file.read_text(encoding="utf-8")):
            if job.get("die_at"):
                die_at(job["die_at"])
            codes.append(app(job["words"], standalone_mode=False) or 0)
    said = {"rank": processes.rank(), "count": processes.count(), "codes": codes}
    (folder / f"process-{processes.rank()}.json").write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
