"""Arrays of float32 as JSON values that come back bit for bit."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray


def packed(array: Any) -> dict[str, Any]:
    """Shape and bytes (little-endian float32, base64)."""
    values = np.ascontiguousarray(array, dtype="<f4")
    return {"shape": list(values.shape), "float32": base64.b64encode(values.tobytes()).decode()}


def unpacked(data: dict[str, Any]) -> NDArray[np.float32]:
    """What `packed` was given."""
    values = np.frombuffer(base64.b64decode(data["float32"]), dtype="<f4").reshape(data["shape"])
    return values.astype(np.float32)
