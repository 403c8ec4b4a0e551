"""Bytes to and from the disk: files replaced whole or not at all, and read up to a limit."""

import contextlib
import os
import secrets
import stat

from reinforce_np import arguments


@contextlib.contextmanager
def replacing(path):
    """Open a temporary file that takes the place of `path` when all went well, and is removed otherwise."""
    target = os.path.realpath(path)  # a link stays a link
    # In the same folder, since a file can only be renamed at once inside one file system.
    folder, name = os.path.split(target)
    temporary = os.path.join(
        folder, f".{name[:50]}.{secrets.token_hex(8)}.tmp"
    )  # left behind only if killed: it says whose
    try:
        try:
            stream = open(temporary, "xb")  # noqa: SIM115 - closed below, before the file is renamed
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None  # the caller does not know the temporary name
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except BaseException:  # also an interrupt
        with contextlib.suppress(OSError):  # there is none yet, or no longer
            os.unlink(temporary)
        raise


def contents(path, limit):
    """Return the bytes of a regular file of at most `limit` bytes."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):  # asked before opening, which a named pipe would block
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise arguments.FileFormatError(f"{path}: it is {kind}; pass the path of a model file")
    with open(path, "rb") as stream:
        data = stream.read(min(limit, os.fstat(stream.fileno()).st_size) + 1)  # one more shows that it is too long
    if not data:
        raise arguments.FileFormatError(f"{path}: the file is empty")
    if len(data) > limit:
        raise arguments.FileFormatError(f"{path}: the file has more than {limit} bytes, the most that is read")
    return data
