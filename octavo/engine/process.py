"""The engine in a process of its own: the loop between a socket and an Engine. `engine/remote.py` starts it.

Everything it is told comes over the socket. It ends when it is told to, when it can't go on, or when the process that
started it is gone: that one holds the other end of standard input.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading

import zmq

from octavo.engine.build import open_model, start_engine
from octavo.engine.client import EngineClient
from octavo.engine.grammars import grammar_compiler
from octavo.engine.messages import Add, Failed, Finish, Open, Opened, Ready, Step, Stop, decode_to_engine, encode
from octavo.errors import EngineDeadError, EngineError, OctavoError
from octavo.log import get_logger
from octavo.request import FinishReason, RequestUpdate

logger = get_logger(__name__)


class Channel:
    """The two sockets, as the engine's side sees them."""

    def __init__(self, directory: str) -> None:
        self._context = zmq.Context(io_threads=1)
        self._inbox = self._context.socket(zmq.PULL)
        self._inbox.bind(f"ipc://{directory}/to_engine")
        self._outbox = self._context.socket(zmq.PUSH)
        self._outbox.connect(f"ipc://{directory}/from_engine")

    def receive(self, *, wait: bool) -> Open | Add | Finish | Stop | None:
        """The next message; None when there is none now and `wait` is False."""
        try:
            return decode_to_engine(self._inbox.recv(0 if wait else zmq.NOBLOCK))
        except zmq.Again:
            return None

    def send(self, message: Opened | Ready | Step | Failed) -> None:
        """Hand over a message. Blocks while the other side is far behind."""
        self._outbox.send(encode(message))

    def close(self) -> None:
        """Close the sockets; what was sent is still delivered, for a second at most."""
        self._inbox.close(linger=0)
        self._outbox.close(linger=1000)
        self._context.term()


class EngineLoop:
    """Takes requests in between steps, and tells after each step what it did."""

    def __init__(self, channel: Channel, engine: EngineClient) -> None:
        self._channel = channel
        self._engine = engine
        self._unfinished: set[str] = set()
        self._num_added = 0
        self._records = True  # there may be sizes of steps left to record

    def run(self) -> None:
        """Until a Stop comes."""
        while self._take_in():
            updates = self._step() if self._engine.has_unfinished else []
            self._channel.send(Step(updates, self._engine.stats, self._num_added))

    def _take_in(self) -> bool:
        """All messages that are there, and while there is nothing to do the next one; False when it was a Stop."""
        while True:
            match self._receive():
                case Add(requests):
                    self._num_added += len(requests)
                    for request in requests:
                        self._unfinished.add(request.request_id)
                        self._engine.add_request(request)
                case Finish(request_ids, reason, stop_reason):
                    self._unfinished.difference_update(request_ids)
                    self._engine.finish_requests(request_ids, reason, stop_reason)
                    if not self._engine.has_unfinished:
                        return True  # so that the other side hears that all is free
                case Stop():
                    return False
                case _:
                    return True

    def _receive(self) -> Open | Add | Finish | Stop | None:
        """The next message; None when there is none now, but something to do. While there is not, steps are recorded
        that would else be recorded in a request's way; a message waits for one of them at most."""
        while not self._engine.has_unfinished:
            message = self._channel.receive(wait=not self._records)
            if message is not None:
                return message
            self._records = self._record_ahead()
        return self._channel.receive(wait=False)

    def _record_ahead(self) -> bool:
        try:
            return any(self._engine.collective_rpc("record_ahead"))
        except Exception as error:
            logger.exception("sizes of steps are recorded when they are needed, as one failed: %s", error)
            return False

    def _step(self) -> list[RequestUpdate]:
        try:
            updates = self._engine.step()
        except EngineError as error:
            logger.exception("%s", error)
            updates = [
                RequestUpdate(request_id=request_id, new_token_ids=[], finish_reason=FinishReason.ERROR)
                for request_id in self._unfinished
            ]
        self._unfinished.difference_update(update.request_id for update in updates if update.finish_reason is not None)
        return updates


def main(directory: str) -> int:
    """Serve the process that listens in `directory`; the exit status."""
    # Whoever started this process decides when it ends: a Ctrl-C or a SIGTERM for the whole group is for that one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, args=(directory,), daemon=True).start()
    channel = Channel(directory)
    try:
        return _serve(channel)
    except OctavoError as error:
        channel.send(Failed(type(error).__name__, str(error)))
    except Exception as error:
        logger.exception("the engine process failed")
        channel.send(Failed(EngineDeadError.__name__, f"{type(error).__name__}: {error}"))
    finally:
        channel.close()
    return 1


def _serve(channel: Channel) -> int:
    message = channel.receive(wait=True)
    assert isinstance(message, Open)
    opened = open_model(message.args)
    channel.send(Opened(opened))
    engine = start_engine(opened.config, grammar_compiler(opened, opened.tokenizer))
    channel.send(Ready())
    try:
        EngineLoop(channel, engine).run()
    finally:
        engine.shutdown()
    return 0


def _die_with_parent(directory: str) -> None:
    """Wait for the end of standard input, which comes when the parent is gone, however it went."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    shutil.rmtree(directory, ignore_errors=True)
    os._exit(1)
