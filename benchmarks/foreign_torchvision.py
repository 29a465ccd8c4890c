"""Loading torchvision where its compiled operators do not fit this build of PyTorch."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import torch

_KEPT: list[torch.library.Library] = []  # definitions end with the library that made them


def declare_operators() -> None:
    """Name torchvision's operators, so that what imports it without using them can be loaded.

    Raises:
        ImportError: it is not installed.
    """
    if _KEPT:
        return
    found = find_spec("torchvision")
    if found is None or found.origin is None:
        raise ImportError("torchvision is not installed", name="torchvision")
    registrations = Path(found.origin).with_name("_meta_registrations.py").read_text()
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in dict.fromkeys(re.findall(r'"(?:torchvision::)?(\w+)"\)', registrations)):
        library.define(f"{name}() -> Tensor")
    _KEPT.append(library)
