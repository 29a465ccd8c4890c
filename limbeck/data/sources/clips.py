"""Short films: a few frames of each, as files, or made of still pictures.

Letters: N samples, F frames, C channels, H×W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from limbeck.data.random import key
from limbeck.data.samples import Arrays, Samples, pixels
from limbeck.data.sources.images import image_folder, parquet
from limbeck.data.sources.split import complete
from limbeck.data.sources.tables import class_numbers, folder_of, folders_in, folders_of_classes
from limbeck.data.splits import Data
from limbeck.errors import InputError

__all__ = ["clips", "panned_stills"]

_PICTURES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp"}
_IN_MEMORY_BYTES = 4 * 2**30


def clips(
    path: str | Path,
    *,
    frames: int = 8,
    size: int = 0,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
) -> Data:
    """Films in the layout ``SPLIT/CLASS/FILM``: each a folder of pictures, or one NumPy file.

    A folder's pictures are its frames, in the order of their names; ``film.npy`` holds (F, H, W, C)
    or (F, H, W), uint8. Of each film ``frames`` are taken, at equal distances; of a shorter one
    some twice. Inputs are (B, F, C, H, W). Without folders for splits, ``CLASS/FILM``, all are
    training samples. Films in containers (MP4, say) are unpacked first, with ffmpeg for example.

    Args:
        path: the folder.
        frames: F.
        size: resize to this height and width; 0 keeps the size, which must then be the same in all.
        validation: fraction of the training samples, if there is no such folder.
        test: fraction of the training samples, if there is no such folder.
        seed: of the cuts.
        limit: at most so many training samples, and half as many of the others.

    Raises:
        InputError: no such folder, no films in it, a damaged file, films of several sizes, a class
            that the training samples lack.
    """
    _require_frames(frames)
    folder = folder_of(path, "films")
    splits, names = folders_of_classes(folder, "train/CLASS/FILM")
    found: dict[str, Samples] = {}
    for split, root in splits.items():
        pairs = [(kind.name, film) for kind in folders_in(root) for film in _films(kind)]
        labels = class_numbers([name for name, _ in pairs], names, root, "films")
        films = [_read(film, frames, size) for _, film in pairs]
        _require_equal(films, [film for _, film in pairs])
        found[split] = Arrays.of(inputs=torch.stack(films), targets=labels)
    cuts: dict[str, Any] = {"validation": validation, "test": test, "seed": seed, "limit": limit}
    return _told(complete(found, names, folder.name, **cuts))


def panned_stills(
    path: str | Path,
    *,
    frames: int = 6,
    reach: int = 8,
    image: str = "",
    label: str = "",
    size: int = 0,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
) -> Data:
    """Clips made of still pictures, as if a camera moved over each: these are no films.

    Nothing in the picture moves by itself; what a model can learn from such clips is to put several
    views of one thing together. Each clip's camera goes in a straight line, at an even speed, from
    one side of the middle to the other; direction and speed are drawn from the sample's id. Edges
    are mirrored, and a frame is as large as the picture. Inputs are (B, F, C, H, W) uint8.

    Args:
        path: of the pictures: a folder of Parquet files, as the source ``parquet`` reads them, or
            of image files, as ``image_folder`` does.
        frames: F.
        reach: pixels from the first frame to the last, at most, in both directions.
        image: the images' column, of Parquet files.
        label: the labels' column, of Parquet files.
        size: resize to this height and width; 0 keeps the size, which must then be the same in all.
        validation: fraction of the training samples, if there is no validation file.
        test: fraction of the training samples, if there is no test file.
        seed: of the cuts and of the cameras.
        limit: at most so many training samples, and half as many of the others.

    Raises:
        InputError: what the sources of the pictures refuse; they do not fit into 4 GiB of memory.
    """
    _require_frames(frames)
    cuts: dict[str, Any] = {"validation": validation, "test": test, "seed": seed, "limit": limit}
    if any(Path(path).glob("*.parquet")):
        stills = parquet(path, image=image, label=label, size=size, **cuts)
    else:
        stills = image_folder(path, size=size, **cuts)

    def filmed(samples: Samples) -> Arrays:
        if not isinstance(samples, Arrays) or samples.nbytes * frames > _IN_MEMORY_BYTES:
            raise InputError(
                f"{frames} frames of {len(samples):,} pictures",
                expected="clips that fit into 4 GiB of memory",
                remedy="Set data.limit, or data.args.size.",
            )
        moving = _panned(samples.column("inputs"), samples.ids, frames, reach, seed)
        return replace(samples, fields={**samples.fields, "inputs": moving})

    splits = ("train", "validation", "test")
    made: dict[str, Any] = {split: filmed(getattr(stills, split)) for split in splits}
    name = f"{stills.name}, panned stills"
    return _told(replace(stills, name=name, **made))


def _told(data: Data) -> Data:
    """Return the data with what models are to know of clips."""
    shape = list(data.train.column("inputs").shape[1:])
    facts = {"frames": shape[0], "image": shape[1:], "channels_in": shape[1]}
    return replace(data, facts={**data.facts, "inputs": facts})


def _panned(stills: Tensor, ids: Tensor, frames: int, reach: int, seed: int) -> Tensor:
    """Return clips (N, F, C, H, W) of stills (N, C, H, W)."""
    count, _, height, width = stills.shape
    edge = (reach + 1) // 2
    if not 0 <= edge < min(height, width):
        raise InputError(
            f"a reach of {reach} pixels over pictures of {width}×{height}",
            expected="0 or more, and less than twice their size",
            remedy="Set data.args.reach.",
        )
    wide = torch.nn.functional.pad(stills.float(), (edge,) * 4, mode="reflect").to(stills.dtype)
    ends = torch.stack([_drawn(ids, seed, number) for number in (0, 1)], dim=1)  # (N, 2), −1 to 1
    along = torch.linspace(-1, 1, frames) if frames > 1 else torch.zeros(1)
    starts = edge + (ends.unsqueeze(1) * along.view(1, -1, 1) * reach / 2).round().long()
    found = torch.empty(count, frames, *stills.shape[1:], dtype=stills.dtype)
    rows, columns = torch.arange(height), torch.arange(width)
    each = torch.arange(count).view(-1, 1, 1)
    for frame in range(frames):
        down = (starts[:, frame, :1] + rows).unsqueeze(2)
        across = (starts[:, frame, 1:] + columns).unsqueeze(1)
        found[:, frame] = wide[each, :, down, across].permute(0, 3, 1, 2)
    return found


def _drawn(ids: Tensor, seed: int, number: int) -> Tensor:
    """Return a number from −1 to 1 for each sample, by its id alone."""
    return (key(seed, ids, number) % 2**20).double().div(2**19).sub(1).float()


def _films(kind: Path) -> list[Path]:
    return sorted(
        entry
        for entry in kind.iterdir()
        if not entry.name.startswith(".") and (entry.is_dir() or entry.suffix == ".npy")
    )


def _read(film: Path, frames: int, size: int) -> Tensor:
    """Return a film's frames, (F, C, H, W) uint8."""
    try:
        if film.is_dir():
            files = sorted(f for f in film.iterdir() if f.suffix.lower() in _PICTURES)
            return _stacked(
                [pixels(Image.open(files[n])) for n in _spread(len(files), frames)], size
            )
        whole = np.load(film, mmap_mode="r", allow_pickle=False)
        if whole.dtype != np.uint8 or whole.ndim not in (3, 4):
            raise InputError(
                f"{film} holds {whole.dtype} of shape {whole.shape}",
                expected="uint8, (frames, height, width, channels) or (frames, height, width)",
            )
        shown = torch.from_numpy(whole[_spread(len(whole), frames)])
        planes = shown.unsqueeze(1) if shown.ndim == 3 else shown.permute(0, 3, 1, 2)
        return _stacked([*planes.contiguous()], size)
    except InputError:
        raise
    except Exception as error:  # A damaged picture can raise anything.
        raise InputError(f"{film} could not be read: {error}") from error


def _stacked(frames: Sequence[Tensor], size: int) -> Tensor:
    if not size:
        return torch.stack(list(frames))
    many = torch.stack(list(frames)).float()
    sized = torch.nn.functional.interpolate(many, (size, size), mode="bilinear", antialias=True)
    return sized.round().clamp(0, 255).to(torch.uint8)


def _spread(there: int, wanted: int) -> list[int]:
    """Return which of a film's frames are taken: the middles of equal parts of it.

    >>> _spread(9, 3), _spread(2, 4)
    ([1, 4, 7], [0, 0, 1, 1])
    """
    if not there:
        raise InputError("a film without frames")
    return [int((2 * n + 1) * there / (2 * wanted)) for n in range(wanted)]


def _require_frames(frames: int) -> None:
    if frames < 1:
        raise InputError(f"{frames} frames of a clip", expected="at least 1")


def _require_equal(films: Sequence[Tensor], names: Sequence[Path]) -> None:
    for film, name in zip(films, names, strict=True):
        if film.shape != films[0].shape:
            one, other = (f"{f.shape[3]}×{f.shape[2]}×{f.shape[1]}" for f in (films[0], film))
            raise InputError(
                f"{names[0]} has frames of {one} and {name} of {other}",
                expected="one size for all",
                remedy="Set data.args.size, to which all are resized.",
            )
