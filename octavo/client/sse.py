"""Server-sent events, read piece by piece: bytes in, the `data` of whole events out.

The bytes may be cut anywhere, also inside a character or a line end: a line is looked at when it is whole. This module
knows no HTTP and no JSON.
"""

from __future__ import annotations

DONE = b"[DONE]"  # the data of the last event of OpenAI's streams


class EventParser:
    """One stream of events. Lines end with LF, CR LF or CR; comments and fields other than `data` are passed over."""

    def __init__(self) -> None:
        self._rest = b""  # a line that is not whole yet
        self._after_cr = False  # an LF that comes next belongs to the CR before it
        self._data: list[bytes] = []  # of the event that is not whole yet

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of the events that `piece` completes."""
        if not piece:
            return []
        if self._after_cr and piece[0] == 0x0A:
            piece = piece[1:]
        self._after_cr = piece.endswith(b"\r")
        lines = (self._rest + piece).splitlines(keepends=True)
        self._rest = b""
        events = []
        for line in lines:
            if not line.endswith((b"\n", b"\r")):
                self._rest = line
                break
            content = line.rstrip(b"\r\n")
            if content.startswith(b"data:"):
                self._data.append(content[6:] if content[5:6] == b" " else content[5:])
            elif not content and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events
