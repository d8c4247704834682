"""How a command ends: what it prints when something is wrong, and its exit code."""

import errno
import os
import sys
from collections.abc import Callable, Mapping

EXIT_CODES = """exit codes:
  0  done
  1  a file or folder cannot be read or written
  2  the arguments are wrong
  3  the backbone cannot be loaded
  4  the data cannot be used
  5  the adapter cannot be used
  6  training or evaluation had to stop
  7  the request cannot be answered
  8  the hub cannot be reached, or refuses
  130  interrupted (a training run resumes when the same command is given again)"""


def run(command: Callable[[], None], also: Mapping[type[Exception], int] | None = None) -> int:
    """Run a command; returns its exit code. An error of ours is raised, not hidden.

    `also` are codes of further errors that the user can do something about.
    """
    try:
        command()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The interpreter flushes once more when it ends, and would complain of the same pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        code = _code(error, also or {})
        if code is None:
            raise
        full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
        advice = ": free room on the disk and give the command again." if full else ""
        print(f"cgclora: {error}{advice}", file=sys.stderr)
        return code
    return 0


def _code(error: Exception, also: Mapping[type[Exception], int]) -> int | None:
    """The code of an error that the user can do something about; None for one of ours."""
    from cgclora.config import ConfigError
    from cgclora.convert.hub import PushError
    from cgclora.data.records import DataError
    from cgclora.inference.request import DecodingError
    from cgclora.models.backbone import BackboneError
    from cgclora.storage.adapter_dir import AdapterError
    from cgclora.storage.run_dir import TrainingError

    codes: dict[type[Exception], int] = {
        ConfigError: 2,
        BackboneError: 3,
        DataError: 4,
        AdapterError: 5,
        TrainingError: 6,
        DecodingError: 7,
        PushError: 8,
        **also,
    }
    if isinstance(error, OSError):
        return 1
    return next((code for kind, code in codes.items() if isinstance(error, kind)), None)
