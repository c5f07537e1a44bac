"""Loggers of octavo: `get_logger(__name__)`. They write to stderr and leave the root logger alone."""

from __future__ import annotations

import logging
import sys
from functools import cache

from octavo import envs


@cache
def _root() -> logging.Logger:
    root = logging.getLogger("octavo")
    if not root.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s %(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
        root.addHandler(handler)
        root.propagate = False
    level = getattr(logging, envs.log_level(), logging.INFO)
    root.setLevel(level if isinstance(level, int) else logging.INFO)
    return root


def get_logger(name: str) -> logging.Logger:
    """The logger of the module `name` (`octavo.x.y`)."""
    _root()
    return logging.getLogger(name)
