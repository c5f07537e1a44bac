"""`octavo bench`: its subcommands, their output and their JSON files."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from local_server import App, Reply, events, serving

from octavo.cli import bench
from octavo.errors import ConfigError, EngineError


def run(*args: str) -> int:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return bench.run(parser.parse_args(args))


def handler(path: str, headers: dict[str, str], body: Any) -> Reply:
    if path == "/v1/models":
        return Reply({"data": [{"id": "m"}]})
    usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": 2}
    return Reply(pieces=events(*[{"choices": [{"text": "a"}]}] * 2, {"choices": [], "usage": usage}, "[DONE]"))


def test_serve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app = App(handler)
    file = tmp_path / "result.json"
    flags = "--num-prompts 3 --dataset prefix --prefix-len 5 --random-input-len 4 --random-output-len 2 --no-progress"
    with serving(app) as url:
        code = run("serve", "--url", url, *flags.split(), "--goodput", "ttft:5000", "--result-file", str(file))
    assert code == 0
    out, err = capsys.readouterr()
    for text in ("Successful requests:", "Median TTFT (ms):", "P99 TPOT (ms):", "Mean ITL (ms):", "Request goodput"):
        assert text in out
    assert err == ""
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["benchmark"] == "serve"
    assert content["parameters"]["prefix_len"] == 5
    assert content["parameters"]["request_rate"] is None  # no limit: JSON has no infinity
    assert "api_key" not in content["parameters"]
    assert content["result"]["completed"] == 3
    assert content["result"]["total_input_tokens"] == 27
    assert content["result"]["model"] == "m"
    assert {"mean_ttft_ms", "median_tpot_ms", "p99_itl_ms", "p99_e2e_ms"} <= set(content["result"])


def test_failed_requests_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    def failing(path: str, headers: dict[str, str], body: Any) -> Reply:
        return Reply({"error": {"message": "full"}}, status=503) if len(app.asked) > 2 else handler(path, headers, body)

    app = App(failing)
    with serving(app) as url:
        assert run("serve", "--url", url, "--num-prompts", "4", "--no-progress") == 1
    assert capsys.readouterr().err == "failed: full\n"


def test_wrong_arguments_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--goodput 'x:1'"):
        run("serve", "--goodput", "x:1")
    with pytest.raises(ConfigError, match="num_prompts must be 1 or more"):
        run("serve", "--num-prompts", "0")
    with pytest.raises(ConfigError, match="can't be written"):
        run("serve", "--result-file", str(tmp_path / "none" / "file.json"))
    with pytest.raises(ConfigError, match="block_size must be 1 or more"):
        run("latency", "--block-size", "0")
    with pytest.raises(EngineError, match="octavo serve"):
        run("serve", "--url", "http://127.0.0.1:1")


def test_help_and_the_client_commands_load_no_torch() -> None:
    code = (
        "import octavo.cli.bench, octavo.cli.chat, octavo.cli.complete, octavo.cli.run_batch, sys\n"
        "assert not {'torch', 'transformers', 'fastapi', 'uvicorn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_offline_benchmarks_with_the_default_model(
    default_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    engine = ["-m", str(default_gguf), "--max-model-len", "64", "--result-file", str(file)]
    sizes = ["--input-len", "8", "--output-len", "3"]

    def result_of(*args: str) -> dict[str, Any]:
        assert run(*args, *engine) == 0
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["result"]
        return result

    throughput = result_of("throughput", "--num-prompts", "3", *sizes)
    assert (throughput["total_input_tokens"], throughput["total_output_tokens"]) == (24, 9)
    latency = result_of("latency", "--batch-size", "2", "--num-iters", "2", *sizes)
    assert len(latency["latencies"]) == 2
    startup = result_of("startup", "--num-iters", "1")
    phases = [startup["runs"][0][name] for name in ("import", "load", "first_token")]
    assert all(seconds > 0 for seconds in phases)
    assert startup["mean_total_s"] == pytest.approx(sum(phases))
    out = capsys.readouterr().out
    assert "Output token throughput (tok/s):" in out
    assert "Latency of a batch (s):" in out
    assert "First token (s):" in out
    assert out.count("Share of the floor reached (%):") == out.count("Probe: ") == 2
    for found in (throughput, latency):
        assert found["floor_reached_percent"] > 0
        assert found["probe"]["read_bytes"] > 0
