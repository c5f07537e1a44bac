"""What malloc keeps of freed memory, given back to the system.

Expanding and rounding weights makes and drops tensors of some megabytes. glibc keeps such memory for later, and its
aligned allocations rarely fit where one of the same size was: left alone, the heap grows with the model.
"""

from __future__ import annotations

import ctypes

_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it, and it alone is known to need it


def trim() -> None:
    """Gives back the pages of the heap that nothing uses. Takes some milliseconds."""
    if _malloc_trim is not None:
        _malloc_trim(0)
