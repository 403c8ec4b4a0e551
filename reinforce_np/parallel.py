"""Run jobs on any executor: a bounded number at a time, results in order, lost workers replaced.

A job here is a pure function of its arguments, so that it does not matter who
runs it, how often, or how many run at once.
"""

import collections
import pickle
import warnings
from concurrent.futures import BrokenExecutor
from functools import cached_property

IN_FLIGHT = 8  # jobs submitted before the first result is asked for
UNSENT = (pickle.PicklingError, AttributeError, TypeError)  # what pickle raises: for a lambda, a local function, a lock


def check_executor(executor):
    """Refuse what cannot run a job."""
    if executor is not None and not hasattr(executor, "submit"):
        raise TypeError(f"executor={executor!r} has no submit; pass a concurrent.futures.Executor, or None")


class Parcel:
    """What many jobs have in common: pickled when it is first sent, and then sent as these bytes.

    Parameters
    ----------
    content : object
        Threads of this process are given the object itself.

    Examples
    --------
    >>> pickle.loads(pickle.dumps(Parcel([1, 2]))).content
    [1, 2]
    """

    def __init__(self, content):
        self.content = content

    @cached_property
    def _bytes(self):
        return pickle.dumps(self.content, pickle.HIGHEST_PROTOCOL)

    def __reduce__(self):
        return _opened, (self._bytes,)


def _opened(sent):
    return Parcel(pickle.loads(sent))


def in_order(function, jobs, executor=None, in_flight=IN_FLIGHT):
    """Yield ``function(*job)`` for each of the jobs, in their order, however many run at once.

    The executor is only asked to ``submit``, and never shut down. When it
    breaks, which is what a process pool does when it loses a worker, the jobs
    it did not finish are run by this process instead, with a warning: the
    results are the same.

    Parameters
    ----------
    function : callable
        Importable by name, so that it can be sent to processes.
    jobs : iterable of tuple
        Its arguments.
    executor : concurrent.futures.Executor, optional
        Runs the jobs; this process does if there is none.
    in_flight : int
        How many jobs are submitted before the first result is asked for: they
        and their results are held in memory, and no more workers than that have something to do.

    Raises
    ------
    TypeError
        When a job cannot be sent to another process.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor() as executor:
    ...     list(in_order(pow, [(2, 1), (2, 2), (2, 3)], executor))
    [2, 4, 8]
    """
    if executor is None:
        for job in jobs:
            yield function(*job)
        return
    pending: collections.deque = collections.deque()
    for job in jobs:
        pending.append((submitted(executor, function, job), job))
        if len(pending) >= in_flight:
            yield result(function, *pending.popleft())
    while pending:
        yield result(function, *pending.popleft())


def submitted(executor, function, job):
    """Return the future of a job, or None when the executor is broken."""
    try:
        return executor.submit(function, *job)
    except BrokenExecutor:
        return None
    except UNSENT as error:
        refuse_unsent(job, error)
        raise


def result(function, future, job):
    """Return what a job gave, running it here when the executor broke before it was done."""
    try:
        if future is not None:
            return future.result()
        reason = "the executor is broken"
    except BrokenExecutor as error:
        reason = str(error)
    except UNSENT as error:
        refuse_unsent(job, error)
        raise
    warnings.warn(f"a worker was lost ({reason}): this process does its work", RuntimeWarning, stacklevel=3)
    return function(*job)


def refuse_unsent(job, error):
    """Say in plain words which argument of a job could not be sent to another process, if that is what `error` is."""
    for argument in job:
        try:
            pickle.dumps(argument)
        except UNSENT as reason:
            if str(reason) == str(error):  # and not one that the job itself raised, in a thread
                raise TypeError(
                    f"{argument!r} cannot be sent to another process ({reason}): write it as a function at the top level of a "
                    "module, or use threads, concurrent.futures.ThreadPoolExecutor"
                ) from error
