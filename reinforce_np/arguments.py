"""Argument checks whose messages name the argument, its value and the remedy.

Every public entry passes what it was given through one of these functions
once, and works with plain arrays and numbers from there on.
"""

import math
import numbers

import numpy as np


class TooLargeError(ValueError):
    """The exact answer was refused because it would cost too much; the message says how much."""


class FileFormatError(ValueError):
    """A file does not hold what it should, or is unsafe to read."""


NOT_NUMBERS = (bool, np.bool_, np.timedelta64)  # registered as integers, and never meant as such


def first_index(wrong):
    """Return the first index at which the boolean array is true, as a tuple of ints."""
    return tuple(int(i) for i in np.argwhere(wrong)[0])


def all_finite(array):
    """Say whether an array holds neither NaN nor an infinity: the same as ``np.isfinite(array).all()``, in half the time."""
    return np.count_nonzero(np.isfinite(array)) == np.size(array)


def at(name, index):
    """Return ``name[i, j, ...]``, the way an offending entry is named in messages."""
    return f"{name}[{', '.join(map(str, index))}]" if index else name


def number(name, value, *, low=-math.inf, high=math.inf, rule=None, open_low=False):
    """Return `value` as a float, refusing what is not a finite real number in [low, high]."""
    plain = isinstance(value, numbers.Real) and not isinstance(value, NOT_NUMBERS)
    if isinstance(value, np.ndarray):
        plain = value.ndim == 0 and value.dtype.kind in "iuf" and not np.ma.isMaskedArray(value)
    if not plain:
        raise TypeError(f"{name}={value!r} is not a real number; pass a float")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result) or not low <= result <= high or (open_low and result == low):
        raise ValueError(
            f"{name}={value!r} is out of range; it must be {rule or f'a finite number in [{low}, {high}]'}"
        )
    return result


def integer(name, value, *, low=0, remedy=None):
    """Return `value` as an int, refusing what is not a whole number of at least `low`."""
    if isinstance(value, NOT_NUMBERS) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}={value!r} is not a whole number; pass an int")
    if value < low:
        raise ValueError(f"{name}={value!r} is out of range; {remedy or f'it must be at least {low}'}")
    return int(value)


def real_array(name, value, *, ndim=None, shape=None, minus_infinity=False, nan=False):
    """Return `value` as a float64 array, refusing wrong shapes and non-finite entries.

    ``shape`` may hold None for an axis of any length; ``minus_infinity``
    admits entries of −inf (masked logits), ``nan`` those of NaN (unknown). In memory the last axis varies
    fastest, as after a pickle: another process then adds up in the same order, to the same bits.
    """
    array = as_array(name, value)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} holds {array.dtype} values; it must hold real numbers")
    check_shape(name, array, ndim=ndim, shape=shape)
    array = array.astype(np.float64, order="C")
    wrong = ~np.isfinite(array)
    if wrong.any():
        wrong &= ~(minus_infinity & (array == -np.inf) | nan & np.isnan(array))
    if wrong.any():
        index = first_index(wrong)
        raise ValueError(f"{at(name, index)}={float(array[index])} is not a finite number; replace it")
    return array


def probability_array(name, value, *, shape):
    """Return a float64 array whose entries are probabilities (its sums are not checked here)."""
    array = real_array(name, value, shape=shape)
    wrong = (array < 0) | (array > 1 + 1e-9)
    if wrong.any():
        index = first_index(wrong)
        raise ValueError(f"{at(name, index)}={float(array[index])} is not a probability; it must be in [0, 1]")
    return array


def check_sums(name, sums, *, tolerance=1e-9):
    """Refuse probabilities whose `sums` are not 1, naming the worst one.

    Nothing is ever normalised silently: a sum of 0.999 is a mistake in the
    model that only its author can repair.
    """
    sums = np.asarray(sums)
    wrong = np.abs(sums - 1.0) > tolerance
    if wrong.any():
        index = tuple(int(i) for i in np.unravel_index(np.argmax(np.abs(sums - 1.0)), sums.shape))
        raise ValueError(
            f"{at(name, index)} sums to {float(sums[index])!r}, the worst of {int(wrong.sum())} that are not 1 "
            f"(tolerance {tolerance:g}); complete the missing outcomes or divide by the sum yourself"
        )


def integer_array(name, value, *, low, high, shape=None, ndim=None):
    """Return `value` as an intp array with entries in [low, high)."""
    array = as_array(name, value)
    if array.dtype.kind == "f" and np.all(array == np.floor(array)) and np.all(np.abs(array) < 2**53):
        array = array.astype(np.intp)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} holds {array.dtype} values; it must hold whole numbers")
    check_shape(name, array, ndim=ndim, shape=shape)
    wrong = (array < low) | (array >= high)
    if wrong.any():
        index = first_index(wrong)
        raise ValueError(f"{at(name, index)}={int(array[index])} is out of range; it must be in [{low}, {high - 1}]")
    return array.astype(np.intp, order="C")


def boolean_array(name, value, *, shape):
    """Return `value` as a bool array; 0 and 1 are accepted."""
    array = as_array(name, value)
    check_shape(name, array, shape=shape)
    if array.dtype.kind in "iuf" and np.all((array == 0) | (array == 1)):
        array = array.astype(bool)
    if array.dtype.kind != "b":
        raise TypeError(f"{name} holds {array.dtype} values; it must hold True and False")
    return array.copy()


def check_shape(name, array, *, ndim=None, shape=None):
    """Refuse an array of another shape, saying which shape was expected."""
    if shape is not None:
        fits = array.ndim == len(shape) and all(w is None or w == h for w, h in zip(shape, array.shape, strict=True))
        if not fits:
            wanted = (
                "(" + ", ".join("any" if w is None else str(w) for w in shape) + ("," if len(shape) == 1 else "") + ")"
            )
            raise ValueError(f"{name} has shape {array.shape}; it must have shape {wanted}")
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"{name} has {array.ndim} axes (shape {array.shape}); it must have {ndim}")


def check_same_model(mdp, policy):
    """Refuse what is no model or no policy, and a policy made for other states or actions than the model has."""
    if not hasattr(mdp, "gamma") or isinstance(mdp, type):
        raise TypeError(f"mdp={mdp!r} is no model; pass a FiniteMDP")
    if not hasattr(policy, "log_probabilities") or isinstance(policy, type):
        raise TypeError(
            f"policy={policy!r} is no policy; pass one such as TabularSoftmax(mdp.n_states, mdp.n_actions), or a LinearSoftmax"
        )
    if (policy.n_states, policy.n_actions) != (mdp.n_states, mdp.n_actions):
        raise ValueError(
            f"policy has n_states={policy.n_states}, n_actions={policy.n_actions}, but mdp has n_states={mdp.n_states}, "
            f"n_actions={mdp.n_actions}; build the policy for this model"
        )


def flag(name, value):
    """Return `value` as a bool, refusing words and numbers: ``"no"`` would count as true."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}={value!r} is not a flag; pass True or False")
    return bool(value)


def generator(rng):
    """Return a `numpy.random.Generator` for None, a seed, a SeedSequence or a Generator (SPEC 7)."""
    if isinstance(rng, (np.random.Generator, np.random.SeedSequence)) or rng is None:
        return np.random.default_rng(rng)
    try:
        return np.random.default_rng(integer("rng", rng))
    except TypeError:
        raise TypeError(f"rng={rng!r} is no seed; pass None, an int >= 0, a SeedSequence or a Generator") from None


def as_array(name, value):
    """Return `value` as an array, refusing rows of several lengths, masks and Python objects."""
    if np.ma.isMaskedArray(value):
        raise TypeError(f"{name} is a masked array, and its mask would be lost; pass plain numbers")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{name} is not a rectangular array: {error}; give every row the same length") from None
    if array.dtype.kind == "O":
        raise TypeError(f"{name} holds Python objects, not numbers; pass a rectangular array of numbers")
    return array
