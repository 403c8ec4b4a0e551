"""Derivatives of any function without knowing how it is computed, and a checker of claimed ones.

Two ways that agree with a hand-written gradient only if it is right:
`complex_step`, exact to rounding for functions that accept complex input, and
`finite_difference`, for any real function, with an error bound. `taylor_test`
needs no step size at all, and `check_gradient` says what kind of mistake a
wrong gradient looks like.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from reinforce_np import arguments

EPS = np.finfo(np.float64).eps
STEP = 2.0**-7  # three halvings balance truncation (h⁶) and rounding (ε/h)
LEAST = 2.0**-20  # relative to θ: a smaller step would be lost beside it
SAFETY = 4.0  # on the truncation estimate; tests/test_differences.py measures how often the bound holds
REDUCTIONS = 8  # of the step, by eight each, while the differences do not look smooth
CANCELLED = 1e-5  # of the change made by the first extrapolation: stands in when the second changes nothing by accident
ROUNDING = 32.0  # rounding errors of f, in units of ε times its size, when `noise` is not given
GROWTH = 1.75  # of remainder/h² from one step to the next: 1 when the gradient is right, 2 when it is wrong
MATCH = 1e-5  # how closely a diagnosis must explain a wrong gradient
SPAN = np.array([1.0, -1.0])


class Difference(NamedTuple):
    """A gradient by differences, and how wrong each component may be."""

    gradient: np.ndarray
    error_bound: np.ndarray


def complex_step(f: Callable, theta, *, step=1e-20, components=None, batch=64):
    """∂f/∂θ_i = Im f(θ + i·h·e_i)/h, exact to rounding: nothing is subtracted.

    Parameters
    ----------
    f : callable
        From a batch of parameters (B, D), complex, to values (B,); analytic,
        so it must not use ``abs``, comparisons or real casts of its values.
    theta : array (D,)
        Real parameters.
    step : float or array (D,)
        h; the truncation error is of order h².
    components : sequence of int, optional
        Only these components of the gradient.
    batch : int
        How many perturbed parameter vectors are passed to `f` at once.

    Returns
    -------
    array (D,), or (len(components),)

    References
    ----------
    Squire & Trapp, "Using Complex Variables to Estimate Derivatives of Real
    Functions", SIAM Review 40 (1998), equation (3).

    Examples
    --------
    >>> complex_step(lambda x: np.exp(x).sum(axis=-1), [0.0, 1.0])
    array([1.        , 2.71828183])
    """
    theta = arguments.real_array("theta", theta, ndim=1, minus_infinity=True)
    chosen = _chosen(components, len(theta))
    step = _steps(step, len(theta))[chosen]
    result = np.empty(len(chosen))
    for rows in _batches(len(chosen), batch):
        points = np.repeat(theta[None].astype(complex), len(rows), axis=0)
        points[np.arange(len(rows)), chosen[rows]] += 1j * step[rows]
        values = _evaluated(f, points)
        if values.dtype.kind != "c":
            raise TypeError(
                "f returned real values for complex theta, so its derivative is lost; use finite_difference instead"
            )
        if not np.isfinite(values).all():
            raise ValueError("f is not finite near theta, so it has no complex step; use another theta")
        result[rows] = values.imag / step[rows]
    return result


def finite_difference(f: Callable, theta, *, step=None, noise=None, components=None, batch=64):
    """∂f/∂θ_i by central differences at h, h/2 and h/4, extrapolated twice, with an error bound.

        D(h) = (f(θ + h·e_i) − f(θ − h·e_i)) / 2h
        R(h) = (4 D(h/2) − D(h)) / 3,      answer = (16 R(h/2) − R(h)) / 15

    The error bound has two parts. Rounding: each value of f is wrong by at
    most `noise`, which the formula turns into at most 6.6·noise/h.
    Truncation: four times the change made by the last extrapolation. The
    second part is an estimate, not a theorem: it holds when f is smooth
    over distances of h. Where the three differences do not look like that
    (they do not approach each other by factors of four), h is reduced.

    Parameters
    ----------
    f : callable
        From a batch of parameters (B, D) to real values (B,).
    theta : array (D,)
        Real parameters; entries of −inf have derivative zero.
    step : float or array (D,), optional
        The first h; 2⁻⁷ if not given, and 2⁻²⁰ |θ_i| where that is more.
    noise : float, optional
        Absolute rounding error of one value of f; 32·ε·max|f| if not given,
        with ε that of the type that f returns. Give it when f is a small difference of large terms.
    components, batch
        As in `complex_step`.

    Returns
    -------
    Difference
        ``(gradient, error_bound)``, both (D,) or (len(components),).

    References
    ----------
    Ridders, "Accurate computation of F'(x) and F'(x)F''(x)", Advances in
    Engineering Software 4 (1982): the extrapolation of central differences.

    Examples
    --------
    >>> gradient, error_bound = finite_difference(lambda x: np.exp(x).sum(axis=-1), [0.0, 1.0])
    >>> bool(np.all(np.abs(gradient - np.exp([0.0, 1.0])) <= error_bound)), bool(np.all(error_bound < 1e-9))
    (True, True)
    """
    theta = arguments.real_array("theta", theta, ndim=1, minus_infinity=True)
    chosen = _chosen(components, len(theta))
    finite = np.isfinite(theta[chosen])
    first = np.maximum(STEP, LEAST * np.abs(np.where(np.isfinite(theta), theta, 0.0)))
    h = (first if step is None else _steps(step, len(theta)))[chosen]
    noise = None if noise is None else arguments.number("noise", noise, low=0.0)
    gradient, bound = np.zeros(len(chosen)), np.zeros(len(chosen))
    rows = np.flatnonzero(finite)
    for _ in range(REDUCTIONS):
        D, rounding = _central_differences(f, theta, chosen[rows], h[rows], noise, batch)
        R = (4 * D[1:] - D[:-1]) / 3
        gradient[rows] = (16 * R[1] - R[0]) / 15
        change = np.abs(np.diff(D, axis=0))
        rough = np.abs(R[1] - R[0]) > change[1] / 4 + rounding  # for a smooth f it is smaller by another factor of h²
        truncation = SAFETY * np.maximum(np.abs(gradient[rows] - R[1]), change[1] * CANCELLED)
        bound[rows] = rounding + np.where(rough, SAFETY * change.sum(axis=0), truncation)
        rows = rows[rough]
        if not len(rows):
            break
        h[rows] /= 8
    return Difference(gradient, bound)


def _central_differences(f, theta, components, h, noise, batch):
    """Return D(h), D(h/2), D(h/4), shape (3, C), and what rounding can contribute to the answer, shape (C,)."""
    D = np.zeros((3, len(components)))
    size = eps = 0.0
    for level in range(3):
        for rows in _batches(len(components), batch):
            points = np.repeat(theta[None], 2 * len(rows), axis=0).reshape(2, len(rows), -1)
            column = theta[components[rows]] + SPAN[:, None] * h[rows] / 2**level
            points[:, np.arange(len(rows)), components[rows]] = column
            values = _evaluated(f, points.reshape(2 * len(rows), -1))
            if values.dtype.kind == "c":
                raise TypeError("f returned complex values for real theta; it must return real ones")
            if not np.isfinite(values).all():
                raise ValueError(
                    "f is not finite near theta, so it has no finite difference; use another theta or a smaller step"
                )
            eps = max(eps, np.finfo(values.dtype if values.dtype.kind == "f" else np.float64).eps)
            values = values.astype(np.float64).reshape(2, len(rows))
            width = column[0] - column[1]  # what was really stepped, after rounding
            if np.any(width <= 0):
                i = components[rows][np.argmin(width)]
                raise ValueError(
                    f"step={float(h[rows].min())} vanishes beside theta[{i}]={theta[i]}; pass a larger step"
                )
            D[level, rows] = (values[0] - values[1]) / width
            size = max(size, np.abs(values).max(initial=0.0))
    noise = ROUNDING * eps * size if noise is None else noise
    # the weights of D(h), D(h/2), D(h/4) in the answer are 1/45, -20/45, 64/45, and D(x) is wrong by noise/x
    return D, noise / h * (1 + 20 * 2 + 64 * 4) / 45


def _one_by_one(f):
    """Return the function of a batch that calls `f` on each of its rows."""

    def batched(points):
        values = [np.asarray(f(point)) for point in points]
        if any(value.size != 1 for value in values):
            raise ValueError(f"f returned shape {values[0].shape} for one parameter vector; it must return a number")
        return np.array([value.reshape(()) for value in values])

    return batched


def _evaluated(f, points):
    """Return f at every row of `points`, refusing an answer of another shape."""
    if not callable(f):
        raise TypeError(f"f={f!r} is not a function; pass one from parameters (B, D) to numbers (B,)")
    values = np.asarray(f(points))
    if values.shape != (len(points),):
        raise ValueError(
            f"f returned shape {values.shape} for {len(points)} parameter vectors; it must return ({len(points)},)"
        )
    return values


def _refuse_random(f, theta, noise):
    """Refuse a function that gives two values for one θ, further apart than rounding."""
    first, second = (_evaluated(f, theta[None])[0] for _ in range(2))
    eps = np.finfo(first.dtype if first.dtype.kind == "f" else np.float64).eps
    allowed = (
        ROUNDING * eps * max(abs(first), abs(second)) if noise is None else arguments.number("noise", noise, low=0.0)
    )
    if abs(first - second) > 2 * allowed:
        raise ValueError(
            f"f is random: it gave {float(first.real)!r} and {float(second.real)!r} for the same theta; fix its seed inside of it, "
            "or compare means of samples instead (confirm)"
        )


def _steps(step, n):
    """Return the step of every component, shape (n,), > 0."""
    step = arguments.real_array("step", step)
    if step.ndim:
        arguments.check_shape("step", step, shape=(n,))
    if np.any(step <= 0):
        raise ValueError(f"step={step if step.ndim else float(step)} is out of range; it must be > 0")
    return np.broadcast_to(step, (n,)).copy()


class TaylorTest(NamedTuple):
    """How the remainder of a first-order expansion shrinks with the step."""

    slope: float
    steps: np.ndarray
    remainders: np.ndarray
    passed: bool
    conclusive: bool


def taylor_test(f: Callable, gradient, theta, *, direction=None, noise=None, rng=None):
    """Check a gradient without choosing a step: |f(θ+hv) − f(θ) − h g·v| must fall like h².

    With a wrong gradient it falls like h only. The steps span 2⁻³ … 2⁻²⁰, and
    the slope is fitted where the remainder stands clear of rounding.

    Parameters
    ----------
    f : callable
        From a batch of parameters (B, D) to real values (B,).
    gradient : array (D,)
        The claimed gradient.
    theta : array (D,)
        Where.
    direction : array (D,), optional
        v; a random one with entries in [−1, 1] if not given. The largest step is v/8.
    noise : float, optional
        As in `finite_difference`.
    rng : None, int or numpy.random.Generator
        Chooses the direction.

    Returns
    -------
    TaylorTest
        ``slope`` of log remainder against log step (infinite when all
        remainders are rounding), the steps, the remainders, ``passed``:
        the remainder over h² does not grow as h falls, and ``conclusive``: rounding is small enough
        beside h g·v that a wrong gradient would have shown.

    Raises
    ------
    ValueError
        When f is not finite, or gives two values for one θ: it is random.

    Examples
    --------
    >>> f = lambda x: np.exp(x).sum(axis=-1)
    >>> bool(taylor_test(f, np.exp([0.0, 1.0]), [0.0, 1.0], rng=0).passed)
    True
    >>> bool(taylor_test(f, -np.exp([0.0, 1.0]), [0.0, 1.0], rng=0).passed)
    False
    """
    theta = arguments.real_array("theta", theta, ndim=1, minus_infinity=True)
    gradient = arguments.real_array("gradient", gradient, shape=theta.shape)
    finite = np.isfinite(theta)
    if direction is None:
        direction = arguments.generator(rng).uniform(-1, 1, size=theta.shape)
        direction = direction / np.abs(direction).max(initial=1e-300)
    v = np.where(finite, arguments.real_array("direction", direction, shape=theta.shape), 0.0)
    if theta.size and not np.any(v):
        raise ValueError("direction is zero, so nothing moves; pass one that is not")
    steps = 2.0 ** -np.arange(3, 21)
    with np.errstate(invalid="ignore"):
        points = np.where(finite, theta + steps[:, None] * v, -np.inf)
    _refuse_random(f, theta, noise)
    values = _evaluated(f, np.concatenate([points, theta[None]])).real
    if not np.isfinite(values).all():
        raise ValueError("f is not finite near theta, so it has no Taylor expansion; use another theta or direction")
    eps = np.finfo(values.dtype if values.dtype.kind == "f" else np.float64).eps
    values, start = values[:-1].astype(np.float64), float(values[-1])
    moved = np.where(finite, points - np.where(finite, theta, 0.0), 0.0) @ gradient  # what was really stepped
    remainders = np.abs(values - start - moved)
    if noise is None:
        noise = ROUNDING * eps * max(np.abs(values).max(), abs(start))
    noise = arguments.number("noise", noise, low=0.0)
    floor = 100 * (noise + EPS * np.abs(moved))
    clear = remainders > floor
    change = max(np.abs(moved[0]), np.abs(values[0] - start))
    conclusive = bool(floor[0] <= 1e-3 * change or change == 0)
    if clear.sum() < 3:
        return TaylorTest(np.inf, steps, remainders, True, conclusive)
    last = np.flatnonzero(clear)[-4:]  # the smallest steps still clear of rounding
    slope = float(np.polyfit(np.log(steps[last]), np.log(remainders[last]), 1)[0])
    # a wrong gradient makes remainder/h² double with every halving; the terms of a right one may cancel somewhere, but
    # then remainder/h² was as large before
    curvature = remainders[clear] / steps[clear] ** 2
    passed = bool(curvature[-1] < GROWTH * curvature[:-1].max())
    return TaylorTest(slope, steps, remainders, passed, conclusive)


@dataclass(frozen=True, eq=False)
class GradientCheck:
    """The verdict of `check_gradient`; prints as a short paragraph and is true when it passed.

    Parameters
    ----------
    passed : bool
        Every component is within its tolerance, and the tolerance is small enough for that to mean something.
    claimed, expected : array (D,)
        The gradient under test, and the one by differences.
    tolerance : array (D,)
        Error bound of `expected`, plus the relative tolerance asked for.
    wrong : int array
        Components outside their tolerance, worst first.
    diagnosis : str
        What kind of mistake it looks like.
    conclusive : bool
        Whether minus the claimed gradient, or zero in its place, would have been noticed. Always true of
        a claim of zero, which says no more than that the gradient is below `tolerance`.
    """

    passed: bool
    claimed: np.ndarray
    expected: np.ndarray
    tolerance: np.ndarray
    wrong: np.ndarray
    diagnosis: str
    conclusive: bool = True

    def __bool__(self):
        return self.passed

    def __str__(self):
        if self.passed:
            worst = float(np.max(np.abs(self.claimed - self.expected), initial=0.0))
            return f"gradient confirmed: {len(self.claimed)} components, largest difference {worst:.2g}"
        if not len(self.wrong):
            return (
                f"gradient NOT confirmed: differences of f are known to ± {self.tolerance.min(initial=np.inf):.2g} or worse, and no component "
                f"claimed is larger than that (at most {np.abs(self.claimed).max():.2g}), so zero would pass as well; "
                "compute f in float64, leave out what does not depend on theta, or pass a larger step"
            )
        lines = [f"gradient WRONG in {len(self.wrong)} of {len(self.claimed)} components: {self.diagnosis}"]
        for i in self.wrong[:5]:
            lines.append(
                f"  component {i}: claimed {self.claimed[i]:.8g}, by differences {self.expected[i]:.8g} "
                f"± {self.tolerance[i]:.1g}, difference {self.claimed[i] - self.expected[i]:.3g}"
            )
        if len(self.wrong) > 5:
            lines.append(f"  ... and {len(self.wrong) - 5} more")
        return "\n".join(lines)


def check_gradient(f: Callable, gradient, theta, *, relative=1e-7, step=None, noise=None, vectorised=False):
    """Check a claimed gradient of any function, and say what is wrong with it.

    Parameters
    ----------
    f : callable
        From parameters (D,) to a number; or, with `vectorised`, from a batch
        (B, D) to numbers (B,).
    gradient : array (D,) or callable
        The claimed gradient, or a function from θ to it.
    theta : array (D,)
        Where to check.
    relative : float
        Allowed difference, relative to the largest component of the
        gradient by differences, on top of its error bound.
    step, noise
        As in `finite_difference`.
    vectorised : bool
        Whether `f` takes batches.

    Returns
    -------
    GradientCheck
        False also where the differences are known too badly to tell the claimed gradient from zero.
        Usable in ``assert check_gradient(...)``; its text names the
        components, by how much they differ, and whether the error looks like
        a sign, a factor, a permutation or a missing term.

    Raises
    ------
    ValueError
        When f gives two values for one θ: it is random.

    Examples
    --------
    >>> theta = np.array([0.5, -1.0, 2.0])
    >>> print(check_gradient(lambda x: np.sum(x**3), 3 * theta**2, theta))
    gradient confirmed: 3 components, largest difference ...
    >>> print(check_gradient(lambda x: np.sum(x**3), -3 * theta**2, theta))
    gradient WRONG in 3 of 3 components: the sign is wrong (claimed = -1 × expected)
      component 2: claimed -12, by differences 12 ± 1e-06, difference -24
      component 1: claimed -3, by differences 3 ± 1e-06, difference -6
      component 0: claimed -0.75, by differences 0.75 ± 1e-06, difference -1.5
    """
    theta = arguments.real_array("theta", theta, ndim=1, minus_infinity=True)
    claimed = arguments.real_array("gradient", gradient(theta) if callable(gradient) else gradient, shape=theta.shape)
    relative = arguments.number("relative", relative, low=0.0)
    if not callable(f):
        raise TypeError(f"f={f!r} is not a function; pass one from parameters (D,) to a number")
    batched = f if arguments.flag("vectorised", vectorised) else _one_by_one(f)
    _refuse_random(batched, theta, noise)
    expected, bound = finite_difference(batched, theta, step=step, noise=noise)
    tolerance = bound + relative * np.max(np.abs(expected), initial=0.0)
    conclusive = not claimed.any() or bool(np.any(np.abs(claimed) > tolerance))
    excess = np.abs(claimed - expected) - tolerance
    order = np.argsort(-excess, kind="stable")
    wrong = order[excess[order] > 0]
    diagnosis = "" if not len(wrong) else diagnose(claimed, expected, wrong)
    return GradientCheck(conclusive and not len(wrong), claimed, expected, tolerance, wrong, diagnosis, conclusive)


def diagnose(claimed, expected, wrong):
    """Say what kind of mistake turns `expected` into `claimed`: the first explanation that fits.

    Parameters
    ----------
    claimed, expected : array (D,)
        Two gradients that differ.
    wrong : int array
        The components in which they differ.

    Returns
    -------
    str

    Examples
    --------
    >>> diagnose(np.array([2.0, 4.0]), np.array([1.0, 2.0]), [0, 1])
    'a constant factor is wrong (claimed = 2 × expected)'
    >>> diagnose(np.array([1.0, 3.0, 2.0]), np.array([1.0, 2.0, 3.0]), [1, 2])
    'the same numbers stand in another order (a wrong index or reshape): components 1, 2'
    """
    unit = max(np.abs(expected).max(), np.abs(claimed).max()) or 1.0
    claimed, expected, close = claimed / unit, expected / unit, MATCH  # their squares are in float64
    if not np.any(np.abs(claimed) > close):
        return "it is zero everywhere"
    factor = float(claimed @ expected / (expected @ expected)) if np.any(np.abs(expected) > close) else np.nan
    if len(claimed) > 1 and np.allclose(claimed, factor * expected, rtol=0, atol=close):
        if abs(factor + 1) < MATCH:
            return "the sign is wrong (claimed = -1 × expected)"
        return f"a constant factor is wrong (claimed = {factor:.6g} × expected)"
    named = ", ".join(str(int(i)) for i in np.sort(wrong)[:8]) + (", ..." if len(wrong) > 8 else "")
    if np.allclose(np.sort(claimed), np.sort(expected), rtol=0, atol=close):
        return f"the same numbers stand in another order (a wrong index or reshape): components {named}"
    if np.allclose(np.abs(claimed), np.abs(expected), rtol=0, atol=close):
        return f"the sign is wrong in components {named}"
    offset = claimed - expected
    if len(claimed) > 1 and np.ptp(offset) < close:
        return f"every component is off by the same amount ({unit * offset[0]:.6g})"
    if len(wrong) <= max(1, len(claimed) // 4):
        return f"a term is missing or extra in component{'s' if len(wrong) > 1 else ''} {named} only"
    cosine = float(claimed @ expected / (np.linalg.norm(claimed) * np.linalg.norm(expected)))
    return f"no simple factor, sign or permutation explains it (cosine with the expected gradient {cosine:.4f})"


def _chosen(components, n):
    return (
        np.arange(n) if components is None else arguments.integer_array("components", components, low=0, high=n, ndim=1)
    )


def _batches(n, batch):
    batch = arguments.integer("batch", batch, low=1)
    return [np.arange(i, min(i + batch, n)) for i in range(0, n, batch)]
