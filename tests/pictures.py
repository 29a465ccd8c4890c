"""A folder of pictures in the layout of ImageNet."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image


def photographs(root: Path) -> Path:
    """Pictures of two classes, of unlike sizes: bright at the left, or at the right."""
    generator = torch.Generator().manual_seed(0)
    for number in range(48):
        side = number % 2
        width, height = 40 + number % 9, 44 + number % 5
        pixels = torch.randint(90, (height, width, 3), generator=generator)
        half = slice(0, width // 2) if side == 0 else slice(width // 2, width)
        pixels[:, half] += 150
        folder = root / ("left", "right")[side]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / f"{number}.png")
    return root
