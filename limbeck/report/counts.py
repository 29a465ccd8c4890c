"""What confusions and reliability come to, over seeds.

Letters: C classes, K bins, S seeds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["bins", "calibration_error", "class_accuracies", "confusion_difference", "top_pairs"]

_Floats = NDArray[np.float64]


def class_accuracies(tables: ArrayLike) -> _Floats:
    """Return the accuracy of each class, mean over seeds; NaN for a class without samples.

    Args:
        tables: confusion counts (S, C, C); a row for each label, a column for each answer.
    """
    found: _Floats = np.diagonal(_rates(tables).mean(axis=0)).copy()
    return found


def confusion_difference(student: ArrayLike, teacher: ArrayLike) -> _Floats:
    """Return by how much more often the student gives each wrong answer (C, C), −1 to 1.

    The right answers, and classes without samples, are NaN. Both are confusion counts (S, C, C).
    """
    found: _Floats = _rates(student).mean(axis=0) - _rates(teacher).mean(axis=0)
    np.fill_diagonal(found, np.nan)
    return found


def top_pairs(difference: _Floats, count: int) -> list[tuple[int, int]]:
    """Return (label, answer) where a difference of confusions is largest, in either direction."""
    sizes = np.nan_to_num(np.abs(difference)).ravel()
    order = np.argsort(-sizes, kind="stable")[:count]
    return [divmod(int(place), len(difference)) for place in order if sizes[place] > 0]


def bins(tables: ArrayLike) -> _Floats:
    """Return mean confidence, share of right answers and count of each filled bin.

    Args:
        tables: (S, K, 3): count, sum of confidences and number right, added up over seeds.
    """
    summed = np.asarray(tables, float).sum(axis=0)
    count, confidence, right = summed[summed[:, 0] > 0].T
    return np.stack([confidence / count, right / count, count], axis=1)


def calibration_error(table: ArrayLike) -> float:
    """Return the expected calibration error of one model's bins (K, 3), 0 to 1."""
    count, confidence, right = np.asarray(table, float).T
    return float(np.abs(confidence - right).sum() / count.sum())


def _rates(tables: ArrayLike) -> _Floats:
    counts = np.asarray(tables, float)
    totals = counts.sum(axis=2, keepdims=True)
    rates: _Floats = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    return rates
