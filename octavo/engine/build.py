"""From EngineArgs to a running engine: the one place where all the parts are put together."""

from __future__ import annotations

from pathlib import Path

from octavo.config import EngineArgs, EngineConfig, resolve
from octavo.engine.engine import Engine
from octavo.engine.generation_config import sampling_defaults
from octavo.engine.opened import OpenedModel
from octavo.engine.structuring import Structuring
from octavo.executor.uniproc import UniprocExecutor
from octavo.loading.config_reader import read_checkpoint
from octavo.loading.gguf import GGUFFile
from octavo.loading.sources import fetch_model
from octavo.models.registry import get_model_class
from octavo.platforms.select import current_platform
from octavo.structured.compiler import GrammarCompiler
from octavo.tokenizer.chat_template import resolve_chat_template


def open_model(args: EngineArgs) -> OpenedModel:
    """Fetch the model and settle the configuration; its weights are not read yet.

    Raises:
        ConfigError, ModelError: as their messages say.
    """
    chat_template = None if args.chat_template is None else resolve_chat_template(args.chat_template)
    path = fetch_model(
        args.model,
        revision=args.revision,
        download_dir=args.download_dir,
        token=args.hf_token,
        load_format=args.load_format,
        progress=args.use_tqdm_on_load,
    )
    checkpoint = read_checkpoint(path, hf_overrides=args.hf_overrides)
    config = resolve(args, checkpoint, current_platform(args.num_threads).traits())
    # An unknown architecture is told before anything is loaded.
    get_model_class(config.model.architecture, needs_remote_code="auto_map" in config.model.hf_config)
    tokenizer_path = None if args.skip_tokenizer_init else _tokenizer_path(args, path)
    return OpenedModel(
        config=config,
        defaults=sampling_defaults(args, checkpoint),
        chat_template=chat_template,
        tokenizer_path=None if tokenizer_path is None else str(tokenizer_path),
        tokenizer_metadata=_tokenizer_metadata(tokenizer_path),
    )


def start_engine(config: EngineConfig, compiler: GrammarCompiler) -> Engine:
    """Load the model, plan the memory, and get ready for requests, whose grammars `compiler` compiles.

    Raises:
        ConfigError, ModelError, OutOfMemoryError: as their messages say; nothing keeps running.
    """
    executor = UniprocExecutor(config, current_platform(config.num_threads))
    try:
        executor.start()
        executor.load()
        layout = executor.kv_capacity()
    except BaseException:
        executor.shutdown()
        raise
    return Engine(
        config.scheduler,
        layout,
        executor,
        enable_prefix_caching=config.cache.enable_prefix_caching,
        structuring=Structuring(compiler, vocab_size=config.model.vocab_size, eos_token_ids=config.model.eos_token_ids),
    )


def _tokenizer_path(args: EngineArgs, model_path: Path) -> Path:
    """Where the tokenizer named by the arguments is, else the checkpoint's own."""
    if args.tokenizer is None:
        return model_path
    return fetch_model(
        args.tokenizer,
        revision=args.tokenizer_revision,
        download_dir=args.download_dir,
        token=args.hf_token,
        load_format="dummy",  # no weights
        progress=args.use_tqdm_on_load,
    )


def _tokenizer_metadata(path: Path | None) -> dict[str, object] | None:
    if path is None or path.suffix != ".gguf":
        return None
    metadata = GGUFFile(path).metadata
    return {key: metadata[key] for key in metadata if key.startswith("tokenizer.")}
