"""The command line."""

import os

# Large arrays on large pages, where the system leaves that to the program: a step that makes hundreds of megabytes of
# logits otherwise spends a quarter of its time on being given small ones. PyTorch reads this at its first allocation.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
