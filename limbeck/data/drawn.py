"""What is drawn on a sample for a person: classes of pixels, boxes with names, how parts weigh.

Letters: C channels, H×W pixels.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from limbeck.data.shown import Shown, data_uri, portrayed

__all__ = ["boxed", "coloured", "heated", "weighed"]

_SIDE = 192  # about how many pixels a drawn picture has on its shorter side, so that names fit
_MOST_HEATED = 96  # pixels on the longer side of a picture with weights
_FOR, _AGAINST = (230, 97, 1), (120, 70, 190)
_TURN = 0.618034  # of the colour wheel from one class to the next: neighbours look different


def coloured(picture: Tensor, classes: Tensor, names: Sequence[str], told: str) -> Shown:
    """Return a picture whose pixels have the colours of their classes, with the classes' names.

    Args:
        picture: (C, H, W) with one or three channels, from 0 to 1.
        classes: (H, W), the class of each pixel; −1 leaves the pixel as it is.
        names: of the classes; the empty name leaves pixels as they are.
        told: what stands in for the picture.

    >>> coloured(torch.zeros(3, 8, 8), torch.zeros(8, 8).long(), ("sky",), "all sky")["text"]
    'all sky'
    """
    canvas, scale = _canvas(picture)
    shares = torch.zeros(3, *classes.shape)
    there = torch.zeros(classes.shape, dtype=torch.bool)
    present = [int(each) for each in classes.unique() if each >= 0 and names[int(each)]]
    for number in present:
        here = classes == number
        shares[:, here] = torch.tensor(_colour(number)).view(3, 1) / 255
        there |= here
    over = _enlarged(shares, scale)
    weight = 0.65 * _enlarged(there[None].float(), scale)
    image = _image((1 - weight) * canvas + weight * over)
    draw = ImageDraw.Draw(image)
    for number in present:
        down, across = (classes == number).nonzero().float().median(0).values.tolist()
        _name(draw, (across * scale, down * scale), names[number])
    return _shown(image, told)


def boxed(
    picture: Tensor, boxes: Tensor, classes: Sequence[int], names: Sequence[str], told: str
) -> Shown:
    """Return a picture with boxes in the colours of their classes, and a name at each.

    Args:
        picture: (C, H, W) with one or three channels, from 0 to 1.
        boxes: (N, 4), x1, y1, x2, y2 in pixels.
        classes: of each box; they choose the colours.
        names: what stands at each box.
        told: what stands in for the picture.

    >>> boxed(torch.zeros(3, 8, 8), torch.tensor([[1.0, 1, 6, 7]]), [0], ["cat 90%"], "cat")["text"]
    'cat'
    """
    canvas, scale = _canvas(picture)
    image = _image(canvas)
    draw = ImageDraw.Draw(image)
    for box, number, name in zip((boxes * scale).tolist(), classes, names, strict=True):
        left, top, right, bottom = box
        edges = (left, top, max(left, right - 1), max(top, bottom - 1))
        draw.rectangle(edges, outline=_colour(number), width=2)
        _name(draw, (left + 2, top + 1), name)
    return _shown(image, told)


def heated(picture: Tensor, weights: Tensor, told: str) -> Shown:
    """Return a grey picture on which pixels are the more orange the more they speak for an answer.

    Those that speak against it are violet. Weights are averaged over a sixteenth of the longer
    side, as they are noisy from pixel to pixel; the largest has the full colour.

    Args:
        picture: (C, H, W) from 0 to 1.
        weights: (H, W), positive for the answer.
        told: what stands in for the picture.

    >>> heated(torch.zeros(1, 8, 8), torch.eye(8), "a diagonal")["text"]
    'a diagonal'
    """
    shares = weights.detach().float().cpu()
    grey = picture.detach().float().cpu().mean(0)
    if max(grey.shape) > _MOST_HEATED:
        small = [round(side * _MOST_HEATED / max(grey.shape)) or 1 for side in grey.shape]
        both = torch.stack([grey, shares])[None]
        grey, shares = torch.nn.functional.interpolate(both, small, mode="area")[0]
    wide = max(shares.shape) // 32 * 2 + 1
    shares = torch.nn.functional.avg_pool2d(
        shares[None], wide, 1, wide // 2, count_include_pad=False
    )[0]
    shares = _scaled(shares)
    grey = 0.12 + 0.6 * grey.clamp(0, 1)
    colours = torch.tensor([_FOR, _AGAINST]).view(2, 3, 1, 1) / 255
    over = torch.where(shares > 0, colours[0], colours[1])
    weight = shares.abs()
    image = _image((1 - weight) * grey + weight * over).quantize(64)
    return {"kind": "picture", "src": data_uri(image), "text": told}


def weighed(
    text: str, spans: Sequence[tuple[int, int]], weights: Tensor
) -> list[tuple[str, float]]:
    """Return a text in pieces, with how much each speaks for an answer, from −1 to 1.

    Args:
        text: the whole text.
        spans: of its tokens, in characters; those that share characters count together.
        weights: (T,) of the tokens, perhaps with padding at the end.

    >>> weighed("a fine film", [(0, 1), (2, 6), (7, 11)], torch.tensor([0.0, 2.0, -1.0, 0.0]))
    [('a', 0.0), (' ', 0.0), ('fine', 1.0), (' ', 0.0), ('film', -0.5)]
    """
    pieces: list[tuple[str, float]] = []
    place = 0
    scaled = _scaled(weights[: len(spans)])
    for (start, end), weight in zip(spans, scaled.tolist(), strict=True):
        if end <= place:  # nothing, or a part of a character that is there already
            if pieces and end > start:
                pieces[-1] = (pieces[-1][0], pieces[-1][1] + weight)
            continue
        pieces += [(text[place:start], 0.0)] if start > place else []
        pieces.append((text[max(start, place) : end], weight))
        place = end
    pieces += [(text[place:], 0.0)] if place < len(text) else []
    return [(piece, round(max(-1.0, min(1.0, weight)), 2)) for piece, weight in pieces]


def _scaled(weights: Tensor) -> Tensor:
    """Return weights from −1 to 1."""
    found = weights.detach().float().cpu()
    return found / found.abs().max().clamp(min=1e-12)


def _canvas(picture: Tensor) -> tuple[Tensor, int]:
    """Return a picture in colour, enlarged by a whole number, and that number."""
    found = picture.detach().float().cpu().clamp(0, 1)
    scale = max(1, _SIDE // max(1, min(found.shape[1:])))
    return _enlarged(found.expand(3, -1, -1), scale), scale


def _enlarged(pixels: Tensor, scale: int) -> Tensor:
    return pixels.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def _image(pixels: Tensor) -> Image.Image:
    array = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array)


def _shown(image: Image.Image, told: str) -> Shown:
    found = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return {**portrayed(found), "text": told}


def _name(draw: ImageDraw.ImageDraw, place: tuple[float, float], name: str) -> None:
    """Write a name in white with a dark rim, which can be read on anything."""
    draw.text(place, name, fill="white", stroke_width=2, stroke_fill="black", font_size=22)


def _colour(number: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb((0.05 + _TURN * number) % 1, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
