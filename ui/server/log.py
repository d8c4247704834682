"""The log, as text or JSON lines. It never contains visitors' texts."""

import json
import logging
import re
import sys
import traceback
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the current request; empty outside of one."""

_VALID_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")

_FACTS = "facts"


def new_request_id(headers: Mapping[str, str]) -> str:
    """The request id that a proxy set, if it is valid, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _VALID_ID.fullmatch(given) else uuid.uuid4().hex


def note(logger: logging.Logger, event: str, **facts: str | float | bool | None) -> None:
    """Log an event with facts: names and numbers, never visitors' texts."""
    logger.info(event, extra={_FACTS: facts})


def set_up_log(*, as_json: bool) -> None:
    """Log to stderr, as JSON lines or text.

    In JSON an error has its type and traceback, not its message, which may quote a prompt.
    """
    handler = logging.StreamHandler(sys.stderr)
    if as_json:
        handler.setFormatter(_AsJson())
        logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
        for noisy in ("httpx", "httpcore", "mcp"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
    else:
        logging.basicConfig(level=logging.WARNING, handlers=[handler])


class _AsJson(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage() if record.exc_info is None else str(record.msg),
        }
        if given := request_id.get():
            line["request"] = given
        line.update(getattr(record, _FACTS, {}))
        if record.exc_info and record.exc_info[0] is not None:
            kind, _, trace = record.exc_info
            line["error"] = kind.__name__
            line["at"] = [
                f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}"
                for frame in traceback.extract_tb(trace)
            ]
        return json.dumps(line)  # ASCII, since readers may split lines at other characters
