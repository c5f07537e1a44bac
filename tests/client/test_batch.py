"""Batches: requests and results files, bad lines, failures of the server, resuming, bounded reading."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from local_server import App, Reply

from octavo.client.batch import BatchCounts, run_batch
from octavo.client.batch_file import BatchRequest, ResultsFile, check_files, read_requests
from octavo.errors import ConfigError, EngineError

CHAT = "/v1/chat/completions"


def line(custom_id: Any, **changes: Any) -> str:
    fields = {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": {"model": "m", "messages": []}}
    return json.dumps(fields | changes)


def echo(path: str, headers: dict[str, str], body: Any) -> Reply:
    return Reply({"path": path, "got": body}, headers={"x-request-id": "r-1"})


def run_lines(tmp_path: Path, lines: list[str], app: App, max_concurrency: int = 4) -> BatchCounts:
    requests = tmp_path / "in.jsonl"
    requests.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return run_requests(read_requests(requests), tmp_path, app, max_concurrency)


def run_requests(requests: Iterator[BatchRequest], tmp_path: Path, app: App, max_concurrency: int) -> BatchCounts:
    async def run() -> BatchCounts:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://local") as client:
            with ResultsFile(tmp_path / "out.jsonl") as results:
                return await run_batch(client, requests, results, max_concurrency, lambda: None)

    return asyncio.run(run())


def results_of(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]


def test_good_lines(tmp_path: Path) -> None:
    app = App(echo)
    counts = run_lines(tmp_path, [line("a"), "", line("b", url="/v1/completions", body={"prompt": "ü"})], app)
    assert (counts.succeeded, counts.failed, counts.skipped) == (2, 0, 0)
    by_id = {result["custom_id"]: result for result in results_of(tmp_path)}
    assert set(by_id["b"]) == {"id", "custom_id", "response", "error"}
    assert by_id["b"]["error"] is None
    assert by_id["b"]["response"] == {
        "status_code": 200,
        "request_id": "r-1",
        "body": {"path": "/v1/completions", "got": {"prompt": "ü"}},
    }
    assert len({result["id"] for result in by_id.values()}) == 2
    assert all(result["id"].startswith("batch_req_") for result in by_id.values())


@pytest.mark.parametrize(
    ("bad", "message", "custom_id"),
    [
        ("{not json", "line 2 is not valid JSON", None),
        ('{"custom_id": "\ud800"', "line 2 is not valid JSON", None),
        ("[1]", "must be a JSON object", None),
        ("[" * 100_000, "line 2 is not valid JSON", None),
        (json.dumps({"method": "POST", "url": CHAT, "body": {}}), "custom_id must be", None),
        (line(7), "custom_id must be a string", None),
        (line("good"), "was on a line before", "good"),
        (line("x", method="GET"), "method must be 'POST'", "x"),
        (line("x", url="/v1/embeddings"), "url must be", "x"),
        (line("x", url=[]), "url must be", "x"),
        (line("x", body="hello"), "body must be a JSON object", "x"),
        (line("x", body={"stream": True}), "stream", "x"),
    ],
)
def test_a_bad_line_is_an_error_line_and_the_rest_goes_on(
    tmp_path: Path, bad: str, message: str, custom_id: str | None
) -> None:
    app = App(echo)
    requests = tmp_path / "in.jsonl"
    requests.write_bytes(f"{line('good')}\n{bad}\n{line('last')}".encode(errors="surrogatepass"))
    counts = run_requests(read_requests(requests), tmp_path, app, 1)
    assert (counts.succeeded, counts.failed) == (2, 1)
    assert len(app.asked) == 2
    _, failed, last = results_of(tmp_path)
    assert message in failed["error"]["message"]
    assert failed["custom_id"] == custom_id
    assert failed["response"] is None
    assert last["custom_id"] == "last"


def test_the_answers_own_id_stands_in_for_a_request_id(tmp_path: Path) -> None:
    run_lines(tmp_path, [line("a")], App(lambda path, headers, body: Reply({"id": "cmpl-7"})))
    assert results_of(tmp_path)[0]["response"]["request_id"] == "cmpl-7"


def test_errors_of_the_server_are_error_lines(tmp_path: Path) -> None:
    def handler(path: str, headers: dict[str, str], body: Any) -> Reply:
        kind = body["kind"]
        if kind == "refused":
            return Reply({"error": {"message": "top_p must be in (0, 1]"}}, status=400)
        return Reply(pieces=[b"<html>"], status=502) if kind == "html" else Reply(pieces=[b"no json"])

    kinds = ("refused", "html", "text")
    counts = run_lines(tmp_path, [line(kind, body={"kind": kind}) for kind in kinds], App(handler))
    assert (counts.succeeded, counts.failed) == (0, 3)
    by_id = {result["custom_id"]: result for result in results_of(tmp_path)}
    assert by_id["refused"]["response"]["status_code"] == 400
    assert by_id["refused"]["response"]["body"] == {"error": {"message": "top_p must be in (0, 1]"}}
    assert by_id["refused"]["error"] == {"code": "400", "message": "top_p must be in (0, 1]"}
    assert by_id["html"]["response"]["body"] == "<html>"
    assert "not valid JSON" in by_id["text"]["error"]["message"]


def test_an_overloaded_server_is_asked_again(tmp_path: Path) -> None:
    num_refusals = 2

    def handler(path: str, headers: dict[str, str], body: Any) -> Reply:
        full = len(app.asked) <= num_refusals
        return Reply({"error": {"message": "full"}}, status=503, headers={"retry-after": "0"}) if full else Reply({})

    app = App(handler)
    assert run_lines(tmp_path, [line("a")], app).succeeded == 1
    assert len(app.asked) == 3
    app, num_refusals = App(handler), 10**6
    (tmp_path / "out.jsonl").unlink()
    assert run_lines(tmp_path, [line("a")], app).failed == 1
    assert len(app.asked) == 8


def test_concurrency_is_used_and_bounded_and_the_input_is_read_as_needed(tmp_path: Path) -> None:
    num_read = 0
    app = App(lambda path, headers, body: Reply({}, pause=0.002))

    def requests() -> Iterator[BatchRequest]:
        nonlocal num_read
        for index in range(40):
            num_read += 1
            assert num_read <= len(app.asked) + 8
            yield BatchRequest(str(index), CHAT, {})

    assert run_requests(requests(), tmp_path, app, 8).succeeded == 40
    assert app.max_running == 8


def test_a_second_run_does_only_what_is_missing(tmp_path: Path) -> None:
    fails = {"b"}
    app = App(lambda path, headers, body: Reply({}, status=500 if body["id"] in fails else 200))
    lines = [line(name, body={"id": name}) for name in "abc"] + ["broken"]
    first = run_lines(tmp_path, lines, app)
    assert (first.succeeded, first.failed, first.skipped) == (2, 2, 0)
    out = tmp_path / "out.jsonl"
    kept = [text for text in out.read_bytes().splitlines(keepends=True) if b'"error":null' in text]
    torn = next(text for text in kept if b'"custom_id":"c"' in text)
    out.write_bytes(out.read_bytes().replace(torn, b"") + torn[:-1])
    fails.clear()
    app.asked.clear()
    second = run_lines(tmp_path, lines, app)
    assert (second.succeeded, second.failed, second.skipped) == (2, 1, 1)
    assert sorted(body["id"] for _, _, body in app.asked) == ["b", "c"]
    results = results_of(tmp_path)
    assert sorted(result["custom_id"] or "" for result in results) == ["", "a", "b", "c"]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["in.jsonl", "out.jsonl"]


def test_results_torn_at_any_byte_are_taken_up(tmp_path: Path) -> None:
    run_lines(tmp_path, [line("a"), line("b")], App(echo), max_concurrency=1)
    out = tmp_path / "out.jsonl"
    whole = out.read_bytes()
    first_end = whole.index(b"\n") + 1
    for size in range(len(whole) + 1):
        out.write_bytes(whole[:size])
        with ResultsFile(out) as results:
            expected = set() if size < first_end else {"a"} if size < len(whole) else {"a", "b"}
            assert results.succeeded == expected
        assert out.read_bytes() == whole[: 0 if size < first_end else first_end if size < len(whole) else size]


@pytest.mark.parametrize("content", ["my notes", "my notes\n", '{"custom_id": "a"}\n', "[]\n"])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: str) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match="is no result of a batch"):
        ResultsFile(out)
    assert out.read_text(encoding="utf-8") == content


def test_no_connection_ends_the_run(tmp_path: Path) -> None:
    async def run() -> None:
        def refuse(request: httpx.Request) -> httpx.Response:
            raise httpx.ConnectError("refused", request=request)

        async with httpx.AsyncClient(transport=httpx.MockTransport(refuse), base_url="http://gone:1") as client:
            with ResultsFile(tmp_path / "out.jsonl") as results:
                await run_batch(client, iter([BatchRequest("a", CHAT, {})]), results, 2, lambda: None)

    with pytest.raises(EngineError, match="no server answers at http://gone:1"):
        asyncio.run(run())
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_files_that_can_not_be_the_two_of_a_batch(tmp_path: Path) -> None:
    requests = tmp_path / "in.jsonl"
    with pytest.raises(ConfigError, match="there is no file"):
        check_files(requests, tmp_path / "out.jsonl")
    requests.touch()
    (tmp_path / "same.jsonl").symlink_to(requests)
    for results, message in (
        (requests, "it is the input"),
        (tmp_path / "same.jsonl", "it is the input"),
        (tmp_path, "no file"),
        (tmp_path / "none" / "out.jsonl", "there is no folder"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_files(requests, results)
