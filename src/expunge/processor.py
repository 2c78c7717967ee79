"""What the processor can do that the libraries under PyTorch do not ask of it. Imports nothing heavy."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}


@cache
def is_amd_with_avx512() -> bool:
    """Whether this is a processor whose AVX-512 MKL leaves unused."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:  # not Linux
        return False
    return "AuthenticAMD" in told and set(told.split()) >= AVX512


def name_core() -> None:
    """Tell OpenBLAS, before numpy loads it, what there is: it takes the newest of AMD's cores for old ones."""
    if "numpy" not in sys.modules and is_amd_with_avx512():
        os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
