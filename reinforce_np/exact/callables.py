"""Anybody's estimator: a function of a batch of trajectories and θ that returns a gradient.

Three forms are understood, told apart by the number of arguments that have no default:

    f(trajectories, theta)            an estimate (D,)
    f(trajectories, theta, problem)   the same, reading γ, the policy, a critic, ... from the `Problem`
    f(problem)                        a function of (trajectories, theta), or an `Estimator`
"""

import functools
import inspect

import numpy as np

from reinforce_np import arguments
from reinforce_np.estimators import Estimator

FORMS = "pass an Estimator such as algorithms.reinforce(), or a function f(trajectories, theta) that returns an estimate (D,)"


def bound(estimator, problem):
    """Return an `Estimator`, or a function of (trajectories, theta), for this problem.

    Parameters
    ----------
    estimator : Estimator or callable
        In any of the three forms.
    problem : Problem
        What it is judged on.

    Returns
    -------
    Estimator or callable

    Raises
    ------
    TypeError
        When it is none of these.

    Examples
    --------
    >>> from reinforce_np import Problem, TabularSoftmax, examples
    >>> problem = Problem(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2))
    >>> bound(lambda trajectories, theta, problem: theta * problem.gamma, problem)(None, np.ones(2))
    array([1., 1.])
    """
    if isinstance(estimator, Estimator):
        return estimator
    if not callable(estimator) or isinstance(estimator, type):
        raise TypeError(f"estimator={estimator!r} is no estimator; {FORMS}")
    n = n_required(estimator)
    if n == 0:
        raise TypeError(
            f"estimator={name_of(estimator)} takes no arguments: call it, {name_of(estimator)}(), if it makes an estimator; {FORMS}"
        )
    if n == 1:
        made = _made(estimator, problem)
        if not isinstance(made, Estimator) and (not callable(made) or n_required(made) != 2):
            raise TypeError(f"estimator={name_of(estimator)} of one argument, the problem, made {made!r}; {FORMS}")
        return made
    if n == 3:

        def with_problem(trajectories, theta):
            return estimator(trajectories, theta, problem)

        with_problem.__name__ = with_problem.__qualname__ = name_of(estimator)
        return with_problem
    if n != 2:
        raise TypeError(f"estimator={name_of(estimator)} takes {n} arguments; {FORMS}")
    return estimator


def _made(function, problem):
    try:
        return function(problem)
    except Exception as error:
        error.add_note(
            f"raised by {name_of(function)}, which takes one argument and was given the Problem; if it makes an Estimator of "
            "a baseline or critic V, call it first and pass what it returns"
        )
        raise


def name_of(estimator):
    """Return what messages call an estimator: a function by its own name, anything else as it prints.

    Examples
    --------
    >>> from functools import partial
    >>> def mine(trajectories, theta, problem, clip): ...
    >>> name_of(mine), name_of(partial(mine, clip=0.2)), name_of(bound(partial(mine, clip=0.2), None))
    ('mine', 'mine', 'mine')
    """
    while isinstance(estimator, functools.partial):
        estimator = estimator.func
    return getattr(estimator, "__name__", None) or repr(estimator)


def called(function, trajectories, theta):
    """Return ``function(trajectories, theta)``; where it writes into what it was given, the error says what to do instead.

    Raises
    ------
    ValueError
        When an array is written to that is read-only; caused by NumPy's own error.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples, sample
    >>> def centred(trajectories, theta):
    ...     trajectories.rewards -= trajectories.rewards.mean()
    >>> called(centred, sample(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2), 2, rng=1), np.zeros(2))
    Traceback (most recent call last):
        ...
    ValueError: centred writes into an array that is read-only (output array is read-only), as those of trajectories and theta ...
    """
    try:
        return function(trajectories, theta)
    except AttributeError as error:
        if error.obj is trajectories or error.obj is theta:
            error.add_note(
                f"{name_of(function)} was called as f(trajectories, theta); a loss f(log_probabilities, batch) goes through "
                "numpy_loss, torch_loss or jax_loss"
            )
        raise
    except ValueError as error:
        if "read-only" not in str(error):
            raise
        raise ValueError(
            f"{name_of(function)} writes into an array that is read-only ({error}), as those of trajectories and theta are, which "
            "are shown again in other batches; copy it first, rewards = trajectories.rewards.copy(), or make a new one, "
            "rewards = trajectories.rewards - baseline"
        ) from error


def n_required(function):
    """Return how many positional arguments without a default a function has; 2 when it does not say."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 2
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    n = sum(p.kind in positional and p.default is inspect.Parameter.empty for p in parameters)
    return n if n or not any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters) else 2


def check_family(estimator):
    """Refuse what is no `Estimator`, where only the family will do."""
    if not isinstance(estimator, Estimator):
        raise TypeError(
            f"estimator={estimator!r} is no Estimator; pass one such as algorithms.reinforce(), or use judge"
        )


class NotFiniteError(ValueError):
    """An estimator returned NaN or infinity for a batch that happens with positive probability."""


def estimate_of(function, trajectories, theta):
    """Return what `function` makes of one batch, as an array (D,) of its own precision, checked.

    Parameters
    ----------
    function : callable
        f(trajectories, theta).
    trajectories : Trajectories
        The batch.
    theta : array (D,)
        Parameters.

    Returns
    -------
    array (D,)
    """
    name = name_of(function)
    with np.errstate(all="ignore"):  # what comes of it is refused below, by name
        value = called(function, trajectories, theta)
    value = as_estimate(value, theta, name)
    wrong = ~np.isfinite(value)
    if wrong.any():
        (i,) = arguments.first_index(wrong)
        raise NotFiniteError(f"{name} returned {float(value[i])} for component {i} of {describe(trajectories)}")
    return value


def as_estimate(value, theta, name):
    """Return what the function `name` returned as an array, refusing what is no vector of real numbers like `theta`."""
    if value is None:
        raise ValueError(f"{name} returned None; an estimate must be returned: is a return statement missing?")
    if np.ma.isMaskedArray(value):
        raise TypeError(f"{name} returned a masked array, whose mask would be lost; fill it")
    try:
        value = np.asarray(value)
    except (RuntimeError, TypeError, ValueError) as error:  # a tensor that still tracks gradients, for one
        raise TypeError(f"{name} returned {type(value).__name__}, which is no array: {error}") from None
    if value.shape != theta.shape or value.dtype.kind not in "iuf":
        loss = (
            "; the gradient of a loss is made by numpy_loss, torch_loss or jax_loss"
            if value.ndim == 0 and value.dtype.kind in "iufc"
            else ""
        )
        raise ValueError(
            f"{name} returned an array of shape {value.shape} and dtype {value.dtype}; an estimate must hold one real number "
            f"for each parameter, shape {theta.shape}{loss}"
        )
    return value


def describe(trajectories, most=4):
    """Return a batch in words: the states, actions and rewards of its first members.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples, sample
    >>> describe(sample(examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2), 2, rng=1))
    'the batch of s0 a1 r1, end; s0 a0 r0, end'
    """
    return "the batch of " + "; ".join(
        [path(trajectories, n) for n in range(min(len(trajectories), most))] + ["..."] * (len(trajectories) > most)
    )


def path(trajectories, n):
    """Return trajectory n in words: state, action and reward of every step, and how it ended."""
    steps = [
        f"s{trajectories.states[n, t]} a{trajectories.actions[n, t]} r{float(trajectories.rewards[n, t]):g}"
        for t in range(int(trajectories.lengths[n]))
    ]
    ending = "end" if trajectories.terminated[n] else f"cut in s{trajectories.final_states[n]}"
    return ", ".join([*steps, ending])
