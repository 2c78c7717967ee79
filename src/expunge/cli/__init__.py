"""The command line."""

import os

from expunge.models.fast import startup as starting

# Large arrays on large pages, where the system leaves that to the program: a step that makes hundreds of megabytes of
# logits takes 1.2 times as long without (docs/performance.md). PyTorch reads this at its first allocation.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

starting.begin()
