"""The page's files over HTTP: what is served, with which headers, and that nothing in them reaches outside."""

import asyncio
import re

import httpx
import pytest
from fastapi import FastAPI

from octavo.server.routes.page import router

FILES = {"/": "text/html", "/page/page.css": "text/css", "/page/page.js": "text/javascript"}


def get(path: str, app: FastAPI | None = None) -> httpx.Response:
    if app is None:
        app = FastAPI()
        app.include_router(router)

    async def fetch() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://octavo") as client:
            return await client.get(path)

    return asyncio.run(fetch())


@pytest.mark.parametrize(("path", "content_type"), FILES.items())
def test_files_come_with_their_type_and_the_safe_headers(path: str, content_type: str) -> None:
    response = get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == f"{content_type}; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["img-src"] == "'self' data:"
    assert policy["frame-ancestors"] == "'none'"


@pytest.mark.parametrize(
    "path", ["/page/other.js", "/page/index.html", "/page/__init__.py", "/page/..%2froutes%2fpage.py", "/page/"]
)
def test_other_names_are_not_found(path: str) -> None:
    response = get(path)
    assert response.status_code == 404
    assert "import" not in response.text


def test_the_page_is_not_in_the_api_document() -> None:
    app = FastAPI()
    app.include_router(router)
    assert app.openapi()["paths"] == {}


@pytest.mark.parametrize("path", FILES)
def test_nothing_comes_from_outside(path: str) -> None:
    text = get(path).text
    assert not re.search(r"https?:|wss?:|//[a-z0-9-]+\.[a-z]|@import|url\(", text, re.IGNORECASE)


def test_links_are_relative_and_served() -> None:
    links = re.findall(r'(?:src|href)="([^"]*)"', get("/").text)
    files = [link for link in links if not link.startswith("data:")]
    assert sorted(files) == ["page/page.css", "page/page.js"]
    script = get("/page/page.js").text
    paths = re.findall(r'(?:fetch|ask|chunks)\("([^"]+)"|\["(v1/[^"]+)"', script)
    assert {first or second for first, second in paths} == {
        "metrics",
        "v1/models",
        "v1/completions",
        "v1/chat/completions",
    }


def test_the_page_obeys_its_own_policy() -> None:
    html = get("/").text
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html, re.IGNORECASE)
    assert re.findall(r"<script\b[^>]*>", html) == ['<script src="page/page.js" defer>']


def test_the_script_never_makes_markup_or_code_of_text() -> None:
    script = get("/page/page.js").text
    assert "textContent" in script
    hazards = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc|setHTML|DOMParser"
    assert not re.search(hazards, script)
    assert "localStorage" not in script


def test_below_a_root_path() -> None:
    inner = FastAPI()
    inner.include_router(router)
    outer = FastAPI()
    outer.mount("/models/small", inner)
    assert get("/models/small/", outer).text == get("/").text
    assert get("/models/small/page/page.js", outer).status_code == 200


def test_every_field_has_a_label() -> None:
    html = get("/").text
    labelled = set(re.findall(r'<label[^>]* for="(\w+)"', html))
    for label in re.findall(r"<label\b.*?</label>", html, re.DOTALL):
        labelled |= set(re.findall(r'\bid="(\w+)"', label))
    fields = set(re.findall(r'<(?:input|textarea|select)[^>]*\bid="(\w+)"', html))
    assert len(fields) >= 7
    assert fields <= labelled
