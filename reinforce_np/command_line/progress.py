"""How far a long command is: one line on the terminal, nothing anywhere else."""

import sys
import time

EVERY = 0.1  # seconds between two updates of the line


class Progress:
    """A line on standard error that is rewritten; tqdm's bar where the extra `progress` is installed.

    Parameters
    ----------
    total : int
        Number of iterations.
    stream : file, optional
        Standard error if not given. Where it is no terminal, nothing is written.
    """

    def __init__(self, total, stream=None):
        self.stream = sys.stderr if stream is None else stream
        self.total, self.width, self.last = total, 0, 0.0
        self.shown = self.stream is not None and self.stream.isatty() and total > 0
        self.bar = _tqdm(total, self.stream) if self.shown else None

    def __call__(self, iteration, row):
        """Show an iteration, with its mean return."""
        if not self.shown or (time.monotonic() - self.last < EVERY and iteration < self.total):
            return
        self.last = time.monotonic()
        if self.bar is not None:
            self.bar.set_postfix_str(f"mean return {row['mean_return']:.4g}", refresh=False)
            self.bar.update(iteration - self.bar.n)
            return
        text = (
            f"{iteration}/{self.total} iterations, {row['trajectories']} episodes, mean return {row['mean_return']:.4g}"
        )
        self.stream.write("\r" + text.ljust(self.width))
        self.stream.flush()
        self.width = len(text)

    def close(self):
        """Take the line away."""
        if self.bar is not None:
            self.bar.close()
        elif self.width:
            self.stream.write("\r" + " " * self.width + "\r")
            self.stream.flush()
            self.width = 0


def _tqdm(total, stream):
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=total, file=stream, leave=False, mininterval=EVERY)
