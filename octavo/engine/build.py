"""From EngineArgs to a running engine: the one place where all the parts are put together."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from octavo.config import Checkpoint, EngineArgs, EngineConfig, resolve
from octavo.engine.client import EngineClient
from octavo.engine.engine import Engine
from octavo.engine.generation_config import SamplingDefaults, sampling_defaults
from octavo.executor.uniproc import UniprocExecutor
from octavo.loading.config_reader import read_checkpoint
from octavo.loading.gguf import GGUFFile
from octavo.loading.sources import fetch_model
from octavo.log import get_logger
from octavo.models.registry import get_model_class
from octavo.platforms.select import current_platform
from octavo.tokenizer.chat_template import resolve_chat_template
from octavo.tokenizer.load import Tokenizer, load_tokenizer

logger = get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Built:
    """A running engine and what its surface needs to speak to it."""

    config: EngineConfig
    engine: EngineClient
    tokenizer: Tokenizer | None
    chat_template: str | None  # an explicit one, which goes before the tokenizer's
    defaults: SamplingDefaults


def build_engine(args: EngineArgs) -> Built:
    """Fetch the model, read it, plan the memory, and start the engine.

    Raises:
        ConfigError, ModelError, OutOfMemoryError: as their messages say; nothing keeps running.
    """
    started = time.perf_counter()
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
    platform = current_platform()
    config = resolve(args, checkpoint, platform.traits())
    # An unknown architecture is told before anything is loaded.
    get_model_class(config.model.architecture, needs_remote_code="auto_map" in config.model.hf_config)
    defaults = sampling_defaults(args, checkpoint)
    tokenizer = None if args.skip_tokenizer_init else _tokenizer(args, checkpoint)
    executor = UniprocExecutor(config, platform)
    try:
        executor.start()
        executor.load()
        layout = executor.kv_capacity()
    except BaseException:
        executor.shutdown()
        raise
    engine = Engine(config.scheduler, layout, executor, enable_prefix_caching=config.cache.enable_prefix_caching)
    logger.info("%s (%s) is ready after %.1f s", args.model, config.model.dtype, time.perf_counter() - started)
    return Built(config=config, engine=engine, tokenizer=tokenizer, chat_template=chat_template, defaults=defaults)


def _tokenizer(args: EngineArgs, checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer named by the arguments, else the checkpoint's own."""
    path = Path(checkpoint.path)
    if args.tokenizer is not None:
        path = fetch_model(
            args.tokenizer,
            revision=args.tokenizer_revision,
            download_dir=args.download_dir,
            token=args.hf_token,
            load_format="dummy",  # no weights
            progress=args.use_tqdm_on_load,
        )
    metadata = GGUFFile(path).metadata if path.suffix == ".gguf" else None
    return load_tokenizer(str(path), metadata=metadata)
