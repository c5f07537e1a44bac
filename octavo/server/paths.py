"""The path of a request as the router sees it."""

from __future__ import annotations

from starlette.types import Scope


def path_below_root(scope: Scope) -> str:
    """Without the prefix under which a proxy shows the server."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root + "/") else path
