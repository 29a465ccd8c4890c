"""Keeping the memory that a training step frees, on a processor."""

from __future__ import annotations

import ctypes
import platform

__all__ = ["keep_freed"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_BYTES = 1 << 30


def keep_freed() -> bool:
    """Let this process keep freed memory of up to a GiB for its next allocations.

    The C library of Linux, glibc, gives large blocks back to the system as soon as they are freed.
    A training step allocates and frees the same activations again and again, and each time the
    system has to clear their pages: up to a tenth of the time of a step of small images. The
    most memory in use stays the same; other processes get it back only at the end.

    The command line does this, since the process is its own. In a script, call it at the start, or
    set ``MALLOC_TRIM_THRESHOLD_`` and ``MALLOC_MMAP_THRESHOLD_``.

    Returns:
        Whether it is done; elsewhere than under glibc nothing is changed.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(_MMAP_THRESHOLD, _BYTES), mallopt(_TRIM_THRESHOLD, _BYTES)])
