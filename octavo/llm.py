"""LLM: offline inference. Prompts in, completions out, batched, in the caller's own process."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tqdm import tqdm

from octavo.config import DEFAULT_MODEL, EngineArgs, EngineConfig
from octavo.engine.build import open_model, start_engine
from octavo.engine.client import EngineClient
from octavo.engine.grammars import grammar_compiler
from octavo.engine.inputs import InputProcessor, Prompt
from octavo.engine.outputs import OutputProcessor
from octavo.errors import ConfigError, InvalidRequestError, shown, unknown_name
from octavo.log import get_logger
from octavo.observability.metrics import Metric, snapshot
from octavo.outputs import RequestOutput
from octavo.request import FinishReason, Request
from octavo.sampling_params import RequestOutputKind, SamplingParams
from octavo.tokenizer.chat_template import choose_template, resolve_chat_template, with_tools_told
from octavo.tokenizer.load import Tokenizer

logger = get_logger(__name__)

Messages = Sequence[Mapping[str, Any]]
Progress = bool | Callable[..., Any]


@dataclass(slots=True)
class _Job:
    """One prompt, checked and ready for the engine."""

    request_id: str
    prompt: Prompt
    params: SamplingParams
    requests: list[Request]


class LLM:
    """A language model, ready to generate.

    Args:
        model: a hub id, a folder, a .gguf file, or a packaged model; without one, the default model.
        **kwargs: any field of `EngineArgs`, by vLLM's names.

    Raises:
        ConfigError: an unknown argument (with the nearest name) or a wrong value.
        ModelError: the model can't be found, read or supported.
        OutOfMemoryError: the memory does not hold the model and one request.

    Not for several threads at once. Use it as a context manager, or call `shutdown`, to let go of its memory.
    """

    def __init__(self, model: str = DEFAULT_MODEL, **kwargs: Any) -> None:
        self._args = EngineArgs.from_kwargs(model=model, **kwargs)
        started = time.perf_counter()
        opened = open_model(self._args)
        self._config = opened.config
        self._tokenizer = opened.tokenizer()
        self._chat_template = opened.chat_template
        self._defaults = opened.defaults
        compiler = grammar_compiler(opened, lambda: self._tokenizer)
        self._inputs = InputProcessor(
            opened.config.model, opened.config.scheduler, self._tokenizer, opened.defaults, compiler
        )
        self._outputs = OutputProcessor(self._tokenizer)
        self._num_requests = 0
        self._engine: EngineClient = start_engine(opened.config, compiler)
        logger.info("%r is ready after %.1f s", self, time.perf_counter() - started)

    @classmethod
    def from_engine_args(cls, args: EngineArgs) -> LLM:
        return cls(**{name: getattr(args, name) for name in EngineArgs.__dataclass_fields__})

    # ---- generating ----

    def generate(
        self,
        prompts: Any,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: Progress = True,
        priority: Sequence[int] | None = None,
        **unknown: Any,
    ) -> list[RequestOutput]:
        """Complete prompts.

        Args:
            prompts: one prompt or a sequence of them. A prompt is a string, a list of token ids, or a dict with
                `prompt` or `prompt_token_ids`, and optionally `cache_salt`.
            sampling_params: one for all, one per prompt, or None for the model's defaults.
            use_tqdm: whether to show a progress bar, or a callable that makes one.
            priority: one number per prompt, lower first; needs scheduling_policy="priority".

        Returns:
            One RequestOutput per prompt, in their order.

        Raises:
            RequestError: (a ValueError) a prompt or a parameter is wrong; nothing was started.
            EngineError: a step failed; the LLM can be used again.
        """
        self._reject_unknown(self.generate, unknown)
        jobs = self._jobs(_as_list(prompts), sampling_params, priority, add_special_tokens=True)
        return self._run_all(jobs, use_tqdm)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: Progress = True,
        chat_template: str | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **unknown: Any,
    ) -> list[RequestOutput]:
        """Answer one conversation, or each of a sequence of conversations.

        Args:
            messages: a list of `{"role": ..., "content": ...}`, or a list of such lists.
            chat_template: a template (or its path) that goes before the model's own.
            chat_template_content_format: "auto", "string" or "openai" (a list of parts).
            add_generation_prompt: open the assistant's turn.
            continue_final_message: go on with the last message instead of opening a turn.
            tools: functions in OpenAI's form. A template that knows no tools gets them described in a system message.
                The calls come as text; `octavo.parsers.reply.reply_parser` reads it.
            chat_template_kwargs: more variables for the template.

        Returns, raises: as `generate`.
        """
        self._reject_unknown(self.chat, unknown)
        texts = [
            self._render(
                conversation,
                chat_template=chat_template,
                chat_template_content_format=chat_template_content_format,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tools=tools,
                chat_template_kwargs=chat_template_kwargs,
            )
            for conversation in _as_conversations(messages)
        ]
        return self._run_all(self._jobs(texts, sampling_params, None, add_special_tokens=False), use_tqdm)

    def stream_chat(self, messages: Messages, sampling_params: SamplingParams | None = None) -> Iterator[RequestOutput]:
        """Answer one conversation piece by piece: each output holds what is new. Leaving the loop aborts the answer."""
        params = (sampling_params or self.get_default_sampling_params()).clone()
        params.output_kind = RequestOutputKind.DELTA
        text = self._render(messages)
        return self._run(self._jobs([text], params, None, add_special_tokens=False))

    # ---- the rest of the surface ----

    @property
    def config(self) -> EngineConfig:
        """The configuration, with every "auto" settled."""
        return self._config

    def get_tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            ConfigError: the LLM was built with skip_tokenizer_init.
        """
        if self._tokenizer is None:
            raise ConfigError("there is no tokenizer: the LLM was built with skip_tokenizer_init=True")
        return self._tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """The parameters of a request that brings none: the model's generation config over neutral values."""
        return self._defaults.sampling_params()

    def reset_prefix_cache(self) -> bool:
        """Forget all cached prefixes."""
        return self._engine.reset_prefix_cache()

    def get_metrics(self) -> list[Metric]:
        """The engine's counters and gauges at this moment."""
        return snapshot(self._engine.stats)

    def collective_rpc(self, method: str) -> list[Any]:
        """Call a method of every worker, by name; its results in the order of the workers.

        `cost` (`octavo.cost.ModelCost`: what the model asks of a machine) and `probe` (`octavo.cost.MachineRates`: what
        the machine does at most, measured now) are such methods.
        """
        return self._engine.collective_rpc(method)

    def shutdown(self) -> None:
        """Let go of the model's memory. May be called twice; the LLM can't be used afterwards."""
        self._engine.shutdown()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        model = self._config.model
        return f"LLM(model={model.model!r}, architecture={model.architecture}, dtype={model.dtype})"

    # ---- inside ----

    def _reject_unknown(self, method: Callable[..., Any], unknown: Mapping[str, Any]) -> None:
        if unknown:
            valid = [name for name in inspect.signature(method).parameters if name != "unknown"]
            raise InvalidRequestError(unknown_name(f"argument of {method.__name__}", next(iter(unknown)), valid))

    def _render(self, messages: Any, *, chat_template: str | None = None, **options: Any) -> str:
        template = self._chat_template if chat_template is None else resolve_chat_template(chat_template)
        options.setdefault("add_generation_prompt", True)
        tokenizer, tools = self.get_tokenizer(), options.pop("tools", None)
        template = choose_template(tokenizer.chat_template, template, has_tools=tools is not None)
        messages, tools = with_tools_told(template, messages, tools)
        text = tokenizer.apply_chat_template(messages, tools, tokenize=False, chat_template=template, **options)
        assert isinstance(text, str)
        return text

    def _jobs(
        self,
        prompts: Sequence[Any],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        priority: Sequence[int] | None,
        *,
        add_special_tokens: bool,
    ) -> list[_Job]:
        """All prompts checked, before any is started."""
        params = self._params_list(sampling_params, len(prompts))
        if priority is not None and len(priority) != len(prompts):
            raise InvalidRequestError(
                f"priority has {len(priority)} entries for {len(prompts)} prompts; give one per prompt",
                param="priority",
            )
        jobs = []
        for index, given in enumerate(prompts):
            prompt = self._inputs.prompt(given, add_special_tokens=add_special_tokens)
            rank = 0 if priority is None else priority[index]
            request_id = str(self._num_requests + index)
            requests = self._inputs.requests(request_id, prompt, params[index], rank)
            jobs.append(_Job(request_id, prompt, params[index], requests))
        self._num_requests += len(prompts)
        return jobs

    def _params_list(
        self, given: SamplingParams | Sequence[SamplingParams] | None, num_prompts: int
    ) -> list[SamplingParams]:
        if given is None:
            given = self.get_default_sampling_params()
        if isinstance(given, SamplingParams):
            return [given] * num_prompts
        if not isinstance(given, Sequence) or not all(isinstance(item, SamplingParams) for item in given):
            raise InvalidRequestError(
                f"sampling_params must be SamplingParams, a list of them, or None, got {shown(given)}",
                param="sampling_params",
            )
        if len(given) != num_prompts:
            raise InvalidRequestError(
                f"sampling_params has {len(given)} entries for {num_prompts} prompts; "
                "give one for all, or one per prompt",
                param="sampling_params",
            )
        return list(given)

    def _run(self, jobs: list[_Job]) -> Iterator[RequestOutput]:
        """Run jobs to their end and yield what comes of them; leaving early aborts what is left."""
        under_way = [request.request_id for job in jobs for request in job.requests]
        try:
            for job in jobs:
                self._outputs.add(job.request_id, job.prompt, job.params, job.requests)
                for request in job.requests:
                    self._engine.add_request(request)
            while self._engine.has_unfinished:
                outputs, stopped = self._outputs.process(self._engine.step())
                for stop in stopped:
                    self._engine.finish_requests([stop.request_id], FinishReason.STOP, stop.stop)
                yield from outputs
            under_way = []
        finally:
            if under_way:
                self._engine.finish_requests(under_way, FinishReason.ABORT)
                self._outputs.discard(under_way)

    def _run_all(self, jobs: list[_Job], use_tqdm: Progress) -> list[RequestOutput]:
        for job in jobs:
            job.params = job.params.clone()
            job.params.output_kind = RequestOutputKind.FINAL_ONLY
        bar = None
        if use_tqdm and jobs:
            make = use_tqdm if callable(use_tqdm) else tqdm
            total = sum(job.params.n for job in jobs)
            bar = make(total=total, desc="Processed prompts", dynamic_ncols=True, unit="prompt")
        started = time.perf_counter()
        finished: dict[str, RequestOutput] = {}
        num_input = num_output = 0
        try:
            for output in self._run(jobs):
                finished[output.request_id] = output
                num_input += len(output.prompt_token_ids)
                num_output += sum(len(completion.token_ids) for completion in output.outputs)
                if bar is not None:
                    seconds = max(time.perf_counter() - started, 1e-9)
                    bar.set_postfix_str(
                        f"input: {num_input / seconds:.1f} tok/s, output: {num_output / seconds:.1f} tok/s",
                        refresh=False,
                    )
                    bar.update(len(output.outputs))
        finally:
            if bar is not None:
                bar.close()
        if not self._args.disable_log_stats and jobs:
            seconds = time.perf_counter() - started
            logger.info("%d prompt and %d output tokens in %.2f s", num_input, num_output, seconds)
        return sorted(finished.values(), key=lambda output: int(output.request_id))


def _as_list(prompts: Any) -> list[Any]:
    """One prompt or several as a list. A list of integers is one prompt."""
    if isinstance(prompts, str | Mapping):
        return [prompts]
    if not isinstance(prompts, Sequence) or isinstance(prompts, bytes | bytearray):
        raise InvalidRequestError(
            f"prompts must be a prompt or a list of prompts (strings, lists of token ids, dicts), got {shown(prompts)}",
            param="prompts",
        )
    if prompts and all(isinstance(item, int) and not isinstance(item, bool) for item in prompts):
        return [list(prompts)]
    return list(prompts)


def _as_conversations(messages: Any) -> list[Any]:
    """One conversation or several as a list of conversations."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise InvalidRequestError(
            f"messages must be a list of messages or a list of conversations, got {shown(messages)}", param="messages"
        )
    if not messages or (isinstance(messages[0], Sequence) and not isinstance(messages[0], str | bytes)):
        return list(messages)
    return [messages]
