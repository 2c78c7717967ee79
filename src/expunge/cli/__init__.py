"""The command line."""

import gc
import os

# Large arrays on large pages, where the system leaves that to the program: a step that makes hundreds of megabytes of
# logits takes 1.2 times as long without (docs/performance.md). PyTorch reads this at its first allocation.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# Importing torch and transformers makes a million small objects that stay. Python looks through all of them again after
# every 700 new ones, which is a fifth of the start; a run makes too few to notice the difference.
gc.set_threshold(50_000)

# glibc returns free memory at the top of its heap to the system when it is more than twice the largest array freed so
# far, and is given it again page by page: with arrays of a layer's size at every layer. Once one of nearly 16 MB was
# freed, it keeps up to 32 MB.
bytearray(2**24 - 2**13)
