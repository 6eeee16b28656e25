"""What torch says about GPUs; the only part of choosing a device that imports it."""

from __future__ import annotations

import warnings

import torch

__all__ = ["why_absent"]


def why_absent(device: str) -> str:
    """Return why torch cannot compute on ``cuda`` or ``mps``; "" where it can."""
    with warnings.catch_warnings(record=True) as caught:
        # An old driver, for example, is told by a warning only.
        warnings.simplefilter("always")
        if device == "cuda":
            built, available = torch.backends.cuda.is_built(), torch.cuda.is_available()
        else:
            built, available = torch.backends.mps.is_built(), torch.backends.mps.is_available()
    if available:
        return ""
    if not built:
        return f"this torch ({torch.__version__}) is built without it"
    return "; ".join(str(item.message).split("\n")[0] for item in caught) or "no such device was found"
