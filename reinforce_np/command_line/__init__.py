"""``python -m reinforce_np``: the referee from the command line.

Exit codes: 0 passed, 1 a check failed, 2 bad usage or input, 3 inconclusive,
4 refused for its size, 130 interrupted.
"""

import argparse
import functools
import importlib.metadata
import os
import sys

from reinforce_np import arguments
from reinforce_np.command_line import catalogue, check, estimators, examples, models, plot, train, variance

PASSED, FAILED, BAD_INPUT, INCONCLUSIVE, TOO_LARGE, INTERRUPTED = 0, 1, 2, 3, 4, 130


@functools.cache
def parser():
    """Return the parser of all commands."""
    root = argparse.ArgumentParser(
        prog="reinforce-np",
        description="The exact referee of policy-gradient estimators, in pure NumPy.",
        epilog="exit codes: 0 passed, 1 a check failed, 2 bad usage or input, 3 inconclusive, 4 refused for its size, "
        "130 interrupted",
        allow_abbrev=False,
    )
    root.add_argument("--version", action="version", version=f"reinforce-np {_version()}")
    root.set_defaults(run=None)
    commands = root.add_subparsers(metavar="COMMAND")
    for command in (check, estimators, variance, catalogue, train, plot, examples):
        command.add_to(commands)
    return root


def main(argv=None):
    """Run a command and return its exit code.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; those of the process if not given.

    Returns
    -------
    int

    Examples
    --------
    >>> main(["examples"])  # doctest: +ELLIPSIS
    name ...
    0
    """
    root = parser()
    options = root.parse_args(argv)
    if sys.stdout is None:
        return _complain("standard output is closed, so there is nowhere to print to", BAD_INPUT)
    if options.run is None:
        root.print_help()
        return BAD_INPUT
    if argv is None and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no γ gets a question mark
    try:
        code = options.run(options)
        sys.stdout.flush()
        return code
    except arguments.TooLargeError as error:
        return _complain(models.listable(error), TOO_LARGE)
    except MemoryError as error:
        return _complain(f"not enough memory: {error}", TOO_LARGE)
    except (ValueError, TypeError, OSError, ImportError) as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: nothing more to say
            return getattr(options, "code", PASSED)
        return _complain(error, BAD_INPUT)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)


def _complain(error, code):
    if sys.stderr is not None:
        print(f"reinforce-np: error: {error}", file=sys.stderr)
    return code


def _version():
    try:
        return importlib.metadata.version("reinforce-np")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return "(not installed)"
