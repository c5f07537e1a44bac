"""Requests drawn from the OpenAPI document, good and bad: none gives a 5xx, and answers have the documented shape."""

from __future__ import annotations

import warnings

import hypothesis
import pytest
import schemathesis
from asgi_client import app_of
from fake_async_engine import FakeAsyncEngine
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance

schema = schemathesis.openapi.from_asgi("/openapi.json", app_of(FakeAsyncEngine(["fox"], seed=1)))


@schema.parametrize()
@hypothesis.settings(max_examples=25, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@pytest.mark.slow
def test_no_request_breaks_the_server(case: schemathesis.Case) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        response = case.call()
        case.validate_response(response, checks=(not_a_server_error, response_schema_conformance))
