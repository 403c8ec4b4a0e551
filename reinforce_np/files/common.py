"""What both formats share: the version, the size limit, and how their refusals are worded."""

import math

from reinforce_np import arguments

VERSION = 1

# Bytes of array data in a model, checked before anything is allocated.
MAX_ARRAY_BYTES = 2**30
OUTCOME_BYTES = 8 + 8 + 8 + 1


def check_size(shape, error):
    """Raise `error` when the arrays of a model with outcomes of `shape` (S, A, K) are too large for a file."""
    size = OUTCOME_BYTES * math.prod(shape) + 8 * shape[0]
    if size > MAX_ARRAY_BYTES:
        raise error(f"{shape} outcomes take {size} bytes, more than the {MAX_ARRAY_BYTES} that a file may hold")


def check_version(version):
    """Refuse files of another version than this one."""
    if type(version) is not int or version != VERSION:
        raise arguments.FileFormatError(
            f"format version {short(version)} is unknown; this release reads version {VERSION}"
        )


def check_names(what, wanted, found):
    """Refuse names that are missing or unknown."""
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted]
    if missing:
        raise arguments.FileFormatError(f"missing {what} {', '.join(map(repr, missing))}")
    if extra:
        raise arguments.FileFormatError(f"unknown {what} {', '.join(map(short, extra[:5]))}")


def short(value):
    """Return the repr of what a file holds, short enough for a message."""
    return clipped(repr(value))


def clipped(text):
    """Return the beginning of `text`, short enough for a message."""
    return text if len(text) <= 60 else text[:57] + "..."
