"""`GET /`: the chat page and its files, read once at import.

Knows which files there are, their content types and the headers that keep the page from loading or running anything
that is not its own. Knows nothing of the engine: the page talks to the API like any other client.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, HTTPException, Response

_CONTENT_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
}

# A model's output is hostile text and the page holds an API key: no inline script, no foreign host, no frame around it.
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_FOLDER = files("octavo") / "server" / "page"
_CONTENTS = {name: (_FOLDER / name).read_bytes() for name in _CONTENT_TYPES}
_ASSETS = ("page.css", "page.js")

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page() -> Response:
    """The chat page."""
    return _file("index.html")


@router.get("/page/{name}")
async def page_file(name: str) -> Response:
    """A file of the page; 404 for a name that is none of them."""
    if name not in _ASSETS:
        raise HTTPException(404, f"The page has no file {name!r}; it has {', '.join(_ASSETS)}.")
    return _file(name)


def _file(name: str) -> Response:
    return Response(_CONTENTS[name], headers={**_HEADERS, "Content-Type": _CONTENT_TYPES[name]})
