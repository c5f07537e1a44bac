"""Flags of the commands that talk to a running server, and what they mean."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from octavo.cli.flags import engine_arguments
from octavo.client.endpoint import Endpoint
from octavo.errors import ConfigError
from octavo.sampling_params import SamplingParams


def add_endpoint_flags(parser: argparse.ArgumentParser, default_url: str | None, url_help: str) -> None:
    group = parser.add_argument_group("server")
    group.add_argument("--url", default=default_url, metavar="URL", help=f"{url_help}: http://..., or unix:///PATH")
    group.add_argument("--api-key", default=None, metavar="KEY", help="that the server asks for (also OCTAVO_API_KEY)")


def endpoint_of(parsed: argparse.Namespace) -> Endpoint:
    return Endpoint(parsed.url, parsed.api_key)


def sampling_fields(parsed: argparse.Namespace) -> dict[str, Any]:
    """The sampling parameters that were given, by name: the server adds its own defaults and checks them."""
    given = {field.name: getattr(parsed, field.name, None) for field in fields(SamplingParams)}
    return {name: value for name, value in given.items() if value is not None}


def reject_engine_flags(parsed: argparse.Namespace, *allowed: str) -> None:
    """Refuse arguments of an engine beside --url, where they would have no effect.

    Raises:
        ConfigError: one was given that is not `allowed`.
    """
    for name in engine_arguments(parsed):
        if name not in allowed:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag} has no effect with --url: it is for an engine that starts here; leave one out")
