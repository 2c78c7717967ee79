"""What a large float32 product reaches in this process: python products.py OUT.json (run by peer.py)."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch


def sgemm(seconds: float = 0.5) -> float:
    """Floating point operations per CPU second on one thread, by the quicker library."""
    torch.set_num_threads(1)
    a, b = torch.rand(1024, 1024), torch.rand(1024, 1024)
    rates = []
    for product in (lambda: torch.mm(a, b), lambda: a.numpy() @ b.numpy()):
        product()
        began, done = time.process_time(), 0
        while time.process_time() - began < seconds:
            product()
            done += 1
        rates.append(done * 2 * 1024 ** 3 / (time.process_time() - began))
    return max(rates)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps({"flop_per_s": sgemm()}))
