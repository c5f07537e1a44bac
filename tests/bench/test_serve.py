"""The load on a server, seen from both ends: what is sent, when, and the times that come of it."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
from local_server import App, Reply, events, serving

from octavo.bench.serve import Load, RequestTimes, ServeResult, bench_serve, parse_goodput
from octavo.bench.workload import Workload
from octavo.client.endpoint import Endpoint
from octavo.errors import ConfigError, EngineError, InvalidRequestError

PAUSE = 0.02  # seconds between the tokens of the server


def stream(num_prompt: int, num_output: int) -> list[bytes]:
    usage = {"prompt_tokens": num_prompt, "completion_tokens": num_output, "total_tokens": num_prompt + num_output}
    tokens = [{"choices": [{"index": 0, "text": "é"}], "usage": None} for _ in range(num_output)]
    return [*events(*tokens), b"".join(events({"choices": [], "usage": usage}, "[DONE]"))]


def answering(pause: float = 0.0) -> App:
    return App(lambda path, headers, body: Reply(pieces=stream(len(body["prompt"]), body["max_tokens"]), pause=pause))


def sending(pieces: list[bytes]) -> App:
    return App(lambda path, headers, body: Reply(pieces=pieces))


def run(url: str, load: Load, workload: Workload | None = None, goodput: dict[str, float] | None = None) -> ServeResult:
    workload = workload or Workload(random_input_len=7)
    return asyncio.run(bench_serve(Endpoint(url, "key"), "m", workload, load, goodput or {}, lambda: None))


def test_what_is_sent_and_what_is_measured() -> None:
    app = answering(PAUSE)
    with serving(app) as url:
        result = run(url + "/v1", Load(num_prompts=4, output_len=5), goodput={"tpot": 1e6})
    found = result.fields()
    assert len(app.asked) == 5  # one to begin with
    path, headers, body = app.asked[1]
    assert path == "/v1/completions"
    assert headers["authorization"] == "Bearer key"
    prompt = body.pop("prompt")
    assert len(prompt) == 7
    assert body == {
        "model": "m",
        "max_tokens": 5,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert len({tuple(body.get("prompt", ())) for _, _, body in app.asked}) == 5
    assert app.max_running == 4
    assert (found["completed"], found["failed"]) == (4, 0)
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (28, 20)
    assert found["output_throughput"] == pytest.approx(20 / found["duration"])
    assert found["total_token_throughput"] == pytest.approx(48 / found["duration"])
    assert found["request_goodput"] == pytest.approx(4 / found["duration"])
    # A sleep lasts at least its time; on a busy machine longer.
    assert found["median_ttft_ms"] >= 1000 * PAUSE
    assert found["median_itl_ms"] == pytest.approx(found["median_tpot_ms"], rel=0.5)
    assert found["mean_e2e_ms"] >= 5 * 1000 * PAUSE
    assert found["duration"] < 4 * 5 * PAUSE + 1
    for request in result.requests:
        assert len(request.itls) == 4
        assert request.e2e == pytest.approx(request.ttft + sum(request.itls))
        assert request.tpot == pytest.approx(sum(request.itls) / 4)
    assert "Output token throughput (tok/s):" in result.table()


def test_a_socket_and_a_limit_of_concurrency(tmp_path: Path) -> None:
    app = answering(0.002)
    with serving(app, tmp_path / "s.sock") as url:
        result = run(url, Load(num_prompts=9, output_len=2, max_concurrency=3))
    assert not result.failed
    assert app.max_running == 3


def test_requests_arrive_at_their_rate() -> None:
    with serving(answering()) as url:
        result = run(url, Load(num_prompts=10, output_len=1, request_rate=100.0, seed=5))
    assert result.duration >= 0.04
    assert all(math.isnan(request.tpot) for request in result.requests)


def test_tokens_that_arrive_together_or_in_pieces() -> None:
    whole = b"".join(stream(3, 4))
    for pieces in ([whole], [whole[i : i + 1] for i in range(len(whole))]):
        with serving(sending(pieces)) as url:
            (request,) = run(url, Load(num_prompts=1, output_len=4)).requests
        assert request.error is None
        assert (request.num_output_tokens, len(request.itls)) == (4, 3)
        assert 0 < request.ttft <= request.e2e


def test_a_server_without_usage_is_counted_by_chunks() -> None:
    with serving(sending(stream(3, 4)[:-1] + events("[DONE]"))) as url:
        assert run(url, Load(num_prompts=1, output_len=4)).requests[0].num_output_tokens == 4


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (Reply({"error": {"message": "max_tokens is too large"}}, status=400), InvalidRequestError, "too large"),
        (Reply(pieces=stream(1, 2)[:1]), EngineError, "ended before the answer did"),
        (Reply(pieces=stream(1, 2)[:1], breaks_off=True), EngineError, "ended before the answer did"),
        (Reply(pieces=events({"error": {"message": "it died", "code": 500}}, "[DONE]")), EngineError, "it died"),
        (Reply(pieces=events("[DONE]")), EngineError, "holds no token"),
    ],
)
def test_a_failure_of_the_first_request_ends_it_and_later_ones_are_counted(
    reply: Reply, kind: type[Exception], message: str
) -> None:
    load = Load(num_prompts=3, output_len=2, max_concurrency=1)
    with serving(App(lambda path, headers, body: reply)) as url, pytest.raises(kind, match=message):
        run(url, load)

    def second_fails(path: str, headers: dict[str, str], body: Any) -> Reply:
        return reply if len(app.asked) == 3 else Reply(pieces=stream(7, 2))

    app = App(second_fails)
    with serving(app) as url:
        result = run(url, load)
    found = result.fields()
    assert (found["completed"], found["failed"], found["total_output_tokens"]) == (2, 1, 4)
    assert message in found["errors"][0]


def test_no_server() -> None:
    with pytest.raises(EngineError, match=r"no server answers at http://127\.0\.0\.1:1 "):
        run("http://127.0.0.1:1", Load(num_prompts=1))


def test_goodput_counts_what_meets_every_limit() -> None:
    requests = [
        RequestTimes(ttft=0.1, e2e=0.5, num_output_tokens=5),  # TPOT 100 ms
        RequestTimes(ttft=0.3, e2e=0.4, num_output_tokens=5),  # too late
        RequestTimes(ttft=0.1, e2e=0.9, num_output_tokens=5),  # TPOT 200 ms
        RequestTimes(ttft=0.1, e2e=0.1, num_output_tokens=1),
        RequestTimes(error="broken"),
    ]
    limits = parse_goodput(["ttft:250", "tpot:150"])
    assert limits == {"ttft": 250, "tpot": 150}
    found = ServeResult(2.0, requests, limits).fields()
    assert found["request_goodput"] == 1.0
    assert found["failed"] == 1
    assert "request_goodput" not in ServeResult(2.0, requests, {}).fields()


@pytest.mark.parametrize("given", ["ttft", "ttft:", "ttft:x", "ttft:0", "speed:3"])
def test_goodput_of_another_form_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="METRIC:MILLISECONDS"):
        parse_goodput([given])


@pytest.mark.parametrize("wrong", [{"num_prompts": 0}, {"output_len": 0}, {"max_concurrency": 0}])
def test_wrong_loads_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Load(**wrong)
