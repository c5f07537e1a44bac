"""The two files of a batch, in OpenAI's format: requests that are read line by line, results that are appended.

A results file of an earlier run is taken up: what succeeded stays, failures and a torn last line go. This module knows
no HTTP.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import msgspec

from octavo.errors import ConfigError, shown

LINE_START = b'{"id":"batch_req_'  # of a results file
URLS = ("/v1/chat/completions", "/v1/completions")


class BatchRequest(NamedTuple):
    """One line of the requests file. `error` says why it can't be sent; `url` and `body` are of use without one."""

    custom_id: str | None
    url: str
    body: dict[str, Any]
    error: str | None = None


class BatchResult(NamedTuple):
    """What came of one request. `status` is None where it was never answered."""

    custom_id: str | None
    status: int | None
    request_id: str | None
    body: Any
    error: str | None

    @property
    def succeeded(self) -> bool:
        return self.status == 200 and self.error is None

    def line(self, result_id: str) -> bytes:
        response = None
        if self.status is not None:
            response = {"status_code": self.status, "request_id": self.request_id, "body": self.body}
        error = None
        if self.error is not None:
            error = {"code": "invalid_request" if self.status is None else str(self.status), "message": self.error}
        fields = {"id": result_id, "custom_id": self.custom_id, "response": response, "error": error}
        return msgspec.json.encode(fields) + b"\n"


def read_requests(path: Path) -> Iterator[BatchRequest]:
    """The requests of a file, one by one as they are asked for; empty lines are passed over.

    A line that can't be sent comes with its error: no JSON, a wrong or missing field, a custom_id twice.
    """
    seen: set[str] = set()
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _request(line, f"line {number}", seen)


def _request(line: bytes, where: str, seen: set[str]) -> BatchRequest:
    try:
        given = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return BatchRequest(None, "", {}, f"{where} is not valid JSON: {error}")
    if not isinstance(given, dict):
        return BatchRequest(None, "", {}, f"{where} must be a JSON object, got {shown(given)}")
    custom_id, url, body = given.get("custom_id"), given.get("url"), given.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        return BatchRequest(
            None, "", {}, f"{where}: custom_id must be a string that is not empty, got {shown(custom_id)}"
        )
    if custom_id in seen:
        return BatchRequest(
            custom_id, "", {}, f"{where}: custom_id {custom_id!r} was on a line before; give each its own"
        )
    seen.add(custom_id)
    if given.get("method") != "POST":
        problem = f"method must be 'POST', got {shown(given.get('method'))}"
    elif not isinstance(url, str) or url not in URLS:
        problem = f"url must be {' or '.join(URLS)}, got {shown(url)}"
    elif not isinstance(body, dict):
        problem = f"body must be a JSON object, got {shown(body)}"
    elif body.get("stream"):
        problem = "body.stream must be false or missing: the results of a batch are whole"
    else:
        return BatchRequest(custom_id, url, body)
    return BatchRequest(custom_id, "", {}, f"{where}: {problem}")


def check_files(requests: Path, results: Path) -> None:
    """Refuse files that can't be the two of a batch.

    Raises:
        ConfigError: there are no requests, the results have no folder, or both are the same file.
    """
    if not requests.is_file():
        raise ConfigError(
            f"there is no file {str(requests)!r}; -i names the file of requests, one JSON object per line"
        )
    if results.exists() and (not results.is_file() or results.samefile(requests)):
        raise ConfigError(
            f"the results can't go to {str(results)!r}: it is the input or no file; give -o a file of its own"
        )
    if not results.parent.is_dir():
        raise ConfigError(
            f"there is no folder {str(results.parent)!r} for the results; make it, or give -o another path"
        )


class ResultsFile:
    """The results, appended and flushed one by one. `succeeded` holds the custom_ids that an earlier run has done.

    Raises:
        ConfigError: the file holds something else than results of a batch; it is left as it is.
    """

    def __init__(self, path: Path) -> None:
        self.succeeded: set[str] = set()
        self._path = path
        try:
            if path.exists():
                self._take_up()
            self._file = path.open("ab")
        except OSError as error:
            raise ConfigError(f"can't write {str(path)!r}: {error.strerror}; give -o another path") from None

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, result: BatchResult) -> None:
        self._file.write(result.line(f"batch_req_{os.urandom(12).hex()}"))
        self._file.flush()

    def _take_up(self) -> None:
        """Keep the lines that succeeded: in place where only a torn last line goes, else through a second file."""
        end, has_failures = 0, False
        with self._path.open("rb") as file:
            for number, line in enumerate(file, 1):
                custom_id = self._succeeded_id(line, number)
                if custom_id is not None:
                    self.succeeded.add(custom_id)
                elif line.endswith(b"\n"):
                    has_failures = True
                else:
                    break
                end += len(line)
        os.truncate(self._path, end)
        if has_failures:
            self._drop_failures()

    def _drop_failures(self) -> None:
        kept = self._path.with_name(self._path.name + ".part")
        with self._path.open("rb") as file, kept.open("wb") as target:
            target.writelines(
                line for number, line in enumerate(file, 1) if self._succeeded_id(line, number) is not None
            )
        os.replace(kept, self._path)

    def _succeeded_id(self, line: bytes, number: int) -> str | None:
        """The custom_id of a line that succeeded, None for a failure or a torn line."""
        if not line.endswith(b"\n") and line.startswith(LINE_START[: len(line)]):
            return None
        try:
            given = msgspec.json.decode(line)
            custom_id, response, error = given["custom_id"], given["response"], given["error"]
            succeeded = error is None and response["status_code"] == 200
        except (msgspec.DecodeError, UnicodeDecodeError, TypeError, KeyError):
            raise ConfigError(
                f"line {number} of {str(self._path)!r} is no result of a batch; give -o a file of its own"
            ) from None
        return custom_id if succeeded and isinstance(custom_id, str) else None
