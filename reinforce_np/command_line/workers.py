"""``--workers N``: the processes of commands whose work can be divided."""

import argparse
import concurrent.futures
import contextlib
import signal

from reinforce_np.command_line import models


def add_option(parser, what):
    """Add the option to a parser, or to a group of one; `what` is what the processes do."""
    parser.add_argument(
        "--workers", type=positive, default=1, metavar="N", help=f"processes that {what}; changes no bit (default: 1)"
    )


def positive(text):
    """Parse a whole number >= 1."""
    value = models.whole(text)
    if not value:
        raise argparse.ArgumentTypeError("'0' is too few; pass at least 1")
    return value


@contextlib.contextmanager
def workers(n):
    """Return an executor of `n` processes that leave interrupts to this one, or None for one."""
    if n == 1:
        yield None
        return
    executor = concurrent.futures.ProcessPoolExecutor(
        n, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    )
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)
