"""Sources that are encoded images: Parquet files, folders of files, Hugging Face data sets.

Letters: N samples, C channels, H×W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from limbeck.data.samples import Samples
from limbeck.data.sources.encoded import encoded
from limbeck.data.sources.labels import labels_of
from limbeck.data.sources.split import complete
from limbeck.data.sources.tables import (
    SPLITS,
    by_split,
    class_numbers,
    column_of,
    folder_of,
    folders_of_classes,
    holds_images,
    holds_integers,
)
from limbeck.data.splits import Data
from limbeck.errors import InputError

__all__ = ["PICTURES", "huggingface", "image_folder", "parquet"]

PICTURES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""How the names of pictures end."""


def parquet(
    path: str | Path,
    *,
    image: str = "",
    label: str | Sequence[str] = "",
    size: int = 0,
    workers: int = 0,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
) -> Data:
    """Images in Parquet files, one or more per split, as Hugging Face data sets keep them.

    The files' names begin with their split: ``train.parquet``, ``test-00000-of-00002.parquet``.
    A column of images holds encoded bytes, or a struct with ``bytes``; another holds whole numbers.
    Several labels for each sample (task ``multilabel``) are a column of lists, or several columns.

    Args:
        path: the folder.
        image: the images' column; by default the one that holds images.
        label: the labels' column; by default ``label`` or the first of whole numbers. One that
            holds lists, of the numbers or the names of the classes that are true of a sample, or
            several columns of 0 and 1, make targets (B, C).
        size: resize to this height and width; 0 keeps the size, which must then be the same in all.
        workers: processes that decode, if the images do not fit in memory.
        validation: fraction of the training samples, if there is no validation file.
        test: fraction of the training samples, if there is no test file.
        seed: of the cuts.
        limit: at most so many training samples, and half as many of the others.

    Raises:
        InputError: no such folder, no training file, a missing column, a corrupt file or image.
    """
    folder = folder_of(path, "Parquet files")
    files = by_split(sorted(folder.glob("*.parquet")), folder, "train.parquet")
    tables = {split: _table(parts, split, folder) for split, parts in files.items()}
    targets, names = labels_of(tables, label, str(folder))
    found: dict[str, Samples] = {}
    for split, table in tables.items():
        pictures = column_of(table.schema, image, "image", holds_images)
        stored = table[pictures].to_pylist()
        images = [row["bytes"] if isinstance(row, dict) else row for row in stored]
        if None in images:
            raise InputError(f"row {images.index(None)} of {split} in {folder} has no image")
        found[split] = encoded(images, targets[split], size, workers, str(folder))
    cuts: dict[str, Any] = {"validation": validation, "test": test, "seed": seed, "limit": limit}
    return complete(found, names, folder.name, **cuts)


def _table(parts: Sequence[Path], split: str, folder: Path) -> Any:
    """Return the Parquet files of a split as one table."""
    import pyarrow
    import pyarrow.parquet as pq

    tables = []
    for part in parts:
        try:
            tables.append(pq.read_table(part))
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(f"{part} could not be read as Parquet: {error}") from error
    try:
        return pyarrow.concat_tables(tables)
    except pyarrow.ArrowException as error:
        raise InputError(f"the files of {split} in {folder} differ: {error}") from error


def image_folder(
    path: str | Path,
    *,
    size: int = 0,
    workers: int = 0,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
) -> Data:
    """Image files in the layout of ImageNet: ``SPLIT/CLASS/anything.jpg``.

    Without folders for splits, ``CLASS/anything.jpg``, all are training samples. Classes are
    numbered in the order of their names.

    Args:
        path: the folder.
        size: resize to this height and width; 0 keeps the size, which must then be the same in all.
        workers: processes that decode, if the images do not fit in memory.
        validation: fraction of the training samples, if there is no such folder.
        test: fraction of the training samples, if there is no such folder.
        seed: of the cuts.
        limit: at most so many training samples, and half as many of the others.

    Raises:
        InputError: no such folder, no images in it, a class that the training samples lack.
    """
    folder = folder_of(path, "images")
    splits, names = folders_of_classes(folder, "train/CLASS/image.jpg")
    found: dict[str, Samples] = {}
    for split, root in splits.items():
        files = sorted(f for f in root.glob("[!.]*/**/*") if f.suffix.lower() in PICTURES)
        classes = [file.relative_to(root).parts[0] for file in files]
        labels = class_numbers(classes, names, root, "images")
        found[split] = encoded(files, labels, size, workers, str(folder))
    cuts: dict[str, Any] = {"validation": validation, "test": test, "seed": seed, "limit": limit}
    return complete(found, names, folder.name, **cuts)


def huggingface(
    path: str | Path,
    *,
    image: str = "",
    label: str = "",
    size: int = 0,
    workers: int = 0,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
) -> Data:
    """A Hugging Face data set from a local path: one saved with ``save_to_disk``, or its files.

    Needs the extra ``limbeck[data]``.

    Args:
        path: the folder that ``DatasetDict.save_to_disk`` wrote, or one that
            ``datasets.load_dataset`` reads.
        image: the images' column; by default the one that holds images.
        label: the labels' column; by default ``label`` or the first of whole numbers.
        size: resize to this height and width; 0 keeps the size, which must then be the same in all.
        workers: processes that decode, if the images do not fit in memory.
        validation: fraction of the training samples, if there is no validation split.
        test: fraction of the training samples, if there is no test split.
        seed: of the cuts.
        limit: at most so many training samples, and half as many of the others.
    """
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            "the source 'huggingface' needs the package datasets",
            remedy='Install it: pip install "limbeck[data]".',
        ) from error
    folder = folder_of(path, "a data set")
    try:
        loaded = (
            datasets.load_from_disk(str(folder))
            if any((folder / name).exists() for name in ("dataset_dict.json", "state.json"))
            else datasets.load_dataset(str(folder))
        )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InputError(f"{folder} could not be read as a data set: {error}") from error
    tables = loaded if isinstance(loaded, Mapping) else {"train": loaded}
    found: dict[str, Samples] = {}
    names: tuple[str, ...] = ()
    for split, aliases in SPLITS.items():
        for table in (tables[name] for name in aliases if name in tables):
            schema = table.features.arrow_schema
            pictures = column_of(schema, image, "image", holds_images)
            numbers = column_of(schema, label, "label", holds_integers)
            rows = table.cast_column(pictures, datasets.Image(decode=False))[pictures]
            images = [row["bytes"] or Path(row["path"]) for row in rows]
            labels = torch.tensor(list(table[numbers]), dtype=torch.int64)
            found[split] = encoded(images, labels, size, workers, str(folder))
            names = names or tuple(getattr(table.features[numbers], "names", ()))
    if "train" not in found:
        raise InputError(f"{folder} holds the splits {sorted(tables)}", expected="one named train")
    cuts: dict[str, Any] = {"validation": validation, "test": test, "seed": seed, "limit": limit}
    return complete(found, names, folder.name, **cuts)
