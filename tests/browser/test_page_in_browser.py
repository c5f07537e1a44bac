"""The page in headless Chromium, against a small server that speaks the API slowly and cuts its bytes anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from octavo.server.routes.page import router

webdriver = pytest.importorskip("selenium.webdriver")
By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")

KEY = "a key of the server"
HOSTILE = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script> &amp; <b>"
POEM = "Gather yé rose-buds 🌹 while ye may,\nOld Time is still a-flying;\n"


class FakeApi:
    """The API as the page uses it. `answer` is streamed in tokens, `requests` are the bodies that came."""

    def __init__(self, api_key: str | None = None) -> None:
        self.answer = [POEM]
        self.pause_s = 0.0
        self.cut = 7  # bytes
        self.ends_early = False
        self.error: str | None = None
        self.requests: list[dict[str, Any]] = []
        self.urls: list[str] = []
        self.num_dropped = 0
        self.api_key = api_key
        self.app = FastAPI()
        self.app.include_router(router)
        self.app.get("/v1/models")(self.models)
        self.app.post("/v1/chat/completions")(self.chat)
        self.app.post("/v1/completions")(self.completions)
        self.app.get("/metrics")(self.metrics)

    def refusal(self, request: Request) -> Response | None:
        self.urls.append(str(request.url))
        if self.api_key is None or request.headers.get("authorization") == f"Bearer {self.api_key}":
            return None
        return JSONResponse({"error": {"message": "The key is wrong or missing.", "code": 401}}, 401)

    async def models(self, request: Request) -> Response:
        models = [{"id": "tiny/model-1b", "object": "model"}, {"id": "<b>second</b>", "object": "model"}]
        return self.refusal(request) or JSONResponse({"object": "list", "data": models})

    async def chat(self, request: Request) -> Response:
        return await self.stream(request, lambda text: {"delta": {"content": text}})

    async def completions(self, request: Request) -> Response:
        return await self.stream(request, lambda text: {"text": text})

    async def metrics(self) -> Response:
        return PlainTextResponse(
            "# HELP vllm:num_requests_running Number of requests.\n# TYPE vllm:num_requests_running gauge\n"
            'vllm:num_requests_running{engine="0",model_name="odd } name"} 3.0\n'
            'vllm:num_requests_waiting{engine="0",model_name="odd } name"} 12.0\n'
            'vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 99.0\n'
            'vllm:kv_cache_usage_perc{engine="0",model_name="odd } name"} 0.4175\n'
        )

    async def stream(self, request: Request, choice: Callable[[str], dict[str, Any]]) -> Response:
        refusal = self.refusal(request)
        if refusal is not None:
            return refusal
        self.requests.append(await request.json())
        if self.error is not None:
            return JSONResponse({"error": {"message": self.error, "code": 400}}, 400)
        return StreamingResponse(self.body(choice), media_type="text/event-stream")

    async def body(self, choice: Callable[[str], dict[str, Any]]) -> AsyncGenerator[bytes, None]:
        finished = False
        try:
            for number, text in enumerate(self.answer, start=1):
                chunk = {"choices": [{"index": 0, **choice(text)}], "usage": {"completion_tokens": number}}
                event = f"data: {json.dumps(chunk, ensure_ascii=False)}\r\n\r\n".encode()
                for start in range(0, len(event), self.cut):
                    yield event[start : start + self.cut]
                    await asyncio.sleep(0.001)
                await asyncio.sleep(self.pause_s)
            if not self.ends_early:
                last = {"index": 0, **choice(""), "finish_reason": "length"}
                yield f"data: {json.dumps({'choices': [last]})}\n\ndata: [DONE]\n\n".encode()
            finished = True
        finally:
            self.num_dropped += not finished


@contextlib.contextmanager
def serving(api: FakeApi) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(api.app, log_level="error", ws="none", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
def url(api: FakeApi) -> Iterator[str]:
    with serving(api) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1280,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Page:
    """The open page, in the words of someone who uses it."""

    def __init__(self, browser: Any, url: str) -> None:
        self.browser = browser
        browser.get(url)

    def __getitem__(self, name: str) -> Any:
        return self.browser.find_element(By.ID, name)

    def texts(self, selector: str) -> list[str]:
        return [found.get_property("textContent") for found in self.browser.find_elements(By.CSS_SELECTOR, selector)]

    def until(self, condition: Callable[[], Any]) -> None:
        WebDriverWait(self.browser, 10, 0.02).until(lambda _: condition())

    def write(self, text: str) -> None:
        self["prompt"].send_keys(text)

    def finished(self, num_answers: int = 1) -> None:
        self.until(lambda: len(self.texts(".turn:not([aria-busy])")) == num_answers)


@pytest.fixture
def page(browser: Any, url: str) -> Page:
    page = Page(browser, url)
    page.until(lambda: page["model"].is_enabled())
    return page


def test_a_chat_streams_and_remembers(page: Page, api: FakeApi) -> None:
    assert page.texts("#model option") == ["tiny/model-1b", "<b>second</b>"]
    api.answer, api.pause_s = list(POEM), 0.01
    page.write("First line?" + Keys.ENTER)
    page.until(lambda: 0 < len(page.texts(".answer")[0]) < len(POEM))
    assert page["stop"].is_displayed()
    page.finished()
    assert page.texts(".prompt") == ["First line?"]
    assert page.texts(".answer") == [POEM]
    (figures,) = page.texts(".figures")
    words = figures.split(" · ")
    assert words[0] == f"{len(POEM)} tokens"
    assert 1 < float(words[1].removesuffix(" tokens/s")) <= 100  # a pause of 10 ms between tokens
    assert words[2].startswith("first token after ")
    assert words[3] == "cut at the token limit"
    assert page.texts("#status") == [figures]

    for name, value in {"system": "Be brief.", "temperature": "0.5", "max_tokens": "9", "seed": "-3"}.items():
        page[name].send_keys(value)
    api.answer = ["Yes."]
    page.write("And" + Keys.SHIFT + Keys.ENTER + Keys.NULL + "more?" + Keys.ENTER)
    page.finished(2)
    first, second = api.requests
    assert first["messages"] == [{"role": "user", "content": "First line?"}]
    assert not {"temperature", "top_p", "max_tokens", "seed"} & set(first)
    assert second["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "First line?"},
        {"role": "assistant", "content": POEM},
        {"role": "user", "content": "And\nmore?"},
    ]
    assert (second["temperature"], second["max_tokens"], second["seed"]) == (0.5, 9, -3)
    assert second["model"] == "tiny/model-1b"
    assert second["stream"] is True


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stop_drops_the_request_and_keeps_what_came(page: Page, api: FakeApi, how: str) -> None:
    api.answer, api.pause_s = ["word "] * 1000, 0.02
    page.write("Go on" + Keys.ENTER)
    page.until(lambda: page.texts(".answer")[0].count("word") > 2)
    if how == "button":
        page["stop"].click()
    else:
        page.write(Keys.ESCAPE)
    page.finished()
    page.until(lambda: api.num_dropped == 1)
    assert "stopped by you" in page.texts(".figures")[0]
    kept = page.texts(".answer")[0]
    assert page["send"].is_displayed()
    assert not page["stop"].is_displayed()
    api.answer = ["End."]
    page.write("Then" + Keys.ENTER)
    page.finished(2)
    assert api.requests[1]["messages"][1] == {"role": "assistant", "content": kept}


def test_completion_goes_on_where_the_text_ends(page: Page, api: FakeApi) -> None:
    page.browser.find_element(By.CSS_SELECTOR, "input[value=completion]").send_keys(Keys.SPACE)
    assert not page["system"].is_displayed()
    page.write("Once upon" + Keys.ENTER)
    page.finished()
    assert page.texts("#completion .text") == ["Once upon" + POEM]
    assert api.requests[0]["prompt"] == "Once upon"
    assert "messages" not in api.requests[0]
    page.browser.find_element(By.CSS_SELECTOR, "input[value=chat]").send_keys(Keys.SPACE)
    assert not page["completion"].is_displayed()


def test_hostile_text_stays_text(page: Page, api: FakeApi) -> None:
    api.answer = [HOSTILE]
    page.write(HOSTILE + Keys.ENTER)
    page.finished()
    api.error = HOSTILE
    page.write("again" + Keys.ENTER)
    page.finished(2)
    assert page.texts(".prompt")[0] == page.texts(".answer")[0] == page.texts(".error")[0] == HOSTILE
    assert page.browser.find_elements(By.CSS_SELECTOR, "main img, main script, main b") == []
    assert page.browser.title == "tiny/model-1b · octavo"


def test_fenced_code_is_set_apart(page: Page, api: FakeApi) -> None:
    """The same parts whether the answer comes in one piece or letter by letter, the last fence cut off or not."""
    text = "So:\n```python\nprint(`1`)\n\n# ``\n```\nand\n```\nls\n```"
    for number, answer in enumerate([[text], list(text), list(text + "\n"), list(text[:-4])], start=1):
        api.answer, api.cut = answer, 1000
        page.write("Code?" + Keys.ENTER)
        page.finished(number)
        newest = page.browser.find_elements(By.CSS_SELECTOR, ".answer")[-1]
        parts = newest.find_elements(By.XPATH, "./*")
        assert [(part.tag_name, part.get_property("textContent")) for part in parts] == [
            ("span", "So:"),
            ("code", "print(`1`)\n\n# ``"),
            ("span", "and"),
            ("code", "ls"),
        ]
    assert api.requests[-1]["messages"][1] == {"role": "assistant", "content": text}


def test_errors_are_shown_and_the_message_can_be_sent_again(page: Page, api: FakeApi) -> None:
    api.error = "max_tokens is 0; give 1 or more"
    page.write("Hello" + Keys.ENTER)
    page.finished()
    assert page.texts(".error[role=alert]") == ["max_tokens is 0; give 1 or more"]
    assert page["prompt"].get_property("value") == "Hello"
    api.error, api.ends_early = None, True
    page.write(Keys.ENTER)
    page.finished(2)
    assert page.texts(".error")[1:] == ["The connection ended before the answer did."]
    assert api.requests[1]["messages"] == [{"role": "user", "content": "Hello"}]


def test_an_invalid_parameter_is_not_sent(page: Page, api: FakeApi) -> None:
    page["top_p"].send_keys("3")
    page.write("Hello" + Keys.ENTER)
    assert page.browser.switch_to.active_element == page["top_p"]
    assert api.requests == []


def test_the_live_panel(page: Page) -> None:
    page.until(lambda: page["running"].text == "3")
    assert page["waiting"].text == "12"
    assert page["kv"].text == "41.8 %"
    assert page["kv-meter"].get_attribute("aria-valuenow") == "41.8"
    meter, filled = page["kv-meter"], page["kv-meter"].find_element(By.TAG_NAME, "span")
    assert filled.rect["width"] / meter.rect["width"] == pytest.approx(0.4175, abs=0.01)


def test_events_cut_at_every_byte(page: Page) -> None:
    """Every place to cut a stream in two, in line ends and inside characters, gives the same events."""
    stream = ": note\r\ndata: é🌹\r\n\r\nevent: x\ndata:a\ndata: b\n\ndata:  c\r\rdata: [DONE]\n\n".encode()
    script = """
        const [bytes, done] = [new Uint8Array(arguments[0]), arguments[1]];
        const cut = async (at) => {
            const pieces = [bytes.slice(0, at), bytes.slice(at)];
            const body = new ReadableStream({ pull(to) { pieces.length ? to.enqueue(pieces.shift()) : to.close(); } });
            const events = [];
            for await (const data of sseData(body)) events.push(data);
            return events;
        };
        Promise.all([...bytes.keys()].map(cut)).then(done, (error) => done(String(error)));
    """
    found = page.browser.execute_async_script(script, list(stream))
    assert found == [["é🌹", "a\nb", " c", "[DONE]"]] * len(stream)


def test_the_page_breaks_no_rule_of_its_policy(page: Page) -> None:
    page.write("Hello" + Keys.ENTER)
    page.finished()
    assert [entry["message"] for entry in page.browser.get_log("browser") if "Security" in entry["message"]] == []


def test_the_key_is_asked_for_and_stays_in_the_tab(browser: Any) -> None:
    api = FakeApi(KEY)
    with serving(api) as url:
        page = Page(browser, url)
        page.until(lambda: page["key-dialog"].get_property("open"))
        assert page["key-reason"].text == "The key is wrong or missing."
        page["key"].send_keys("wrong" + Keys.ENTER)
        page.until(lambda: page["key-dialog"].get_property("open") and page["key"].get_property("value") == "")
        page["key"].send_keys(KEY + Keys.ENTER)
        page.until(lambda: page["model"].is_enabled())
        page.write("Hello" + Keys.ENTER)
        page.finished()
        assert page.texts(".answer") == [POEM]
        assert browser.execute_script("return [Object.values(sessionStorage), localStorage.length]") == [[KEY], 0]
        assert not any("key" in address for address in [browser.current_url, *api.urls])
        browser.refresh()
        page.until(lambda: page["model"].is_enabled())
        assert not page["key-dialog"].get_property("open")
        page["forget"].click()
        page.write("Hello" + Keys.ENTER)
        page.until(lambda: page["key-dialog"].get_property("open"))
        page["key-cancel"].click()
        page.finished()
        assert page.texts(".error") == ["The key is wrong or missing."]
        browser.refresh()
        page.until(lambda: page["key-dialog"].get_property("open"))
        page["key-cancel"].click()
        page.until(lambda: page["opening"].text == "No model answers. The key is wrong or missing.")
