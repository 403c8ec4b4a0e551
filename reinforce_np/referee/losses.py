"""From a loss to an estimator: for people who have something to minimise instead of a gradient.

A loss of the log-probabilities is a choice of weight on each score, by the chain rule:

    ĝ = −∂loss/∂θ = Σₙ Σₜ w[n,t] ∇log π(a[n,t]|s[n,t]),      w[n,t] = −∂loss / ∂log π(a[n,t]|s[n,t])

so that any framework that can differentiate with respect to an (N, T) array will do, and the
policy stays the one whose score is written out by hand. `numpy_loss` takes the complex step,
`torch_loss` and `jax_loss` ask PyTorch and JAX. Each makes an estimator that `judge`,
`moments` and the assertions accept:

>>> import numpy as np
>>> from reinforce_np import Problem, TabularSoftmax, examples, judge
>>> def reinforce(log_probs, batch):
...     return -(log_probs * batch.rewards * batch.mask).sum() / len(log_probs)
>>> bandit = Problem(examples.bandit(means=[0.0, 1.0, 5.0]), TabularSoftmax(1, 3), np.zeros(3))
>>> judge(numpy_loss(reinforce), bandit).kind
'unbiased'

What is done with a step that did not happen is part of the question. There a loss sees the
log-probability of the padding, action 0 in state 0, like that of any token; if it forgets
``batch.mask``, that token is scored, as it is in a trainer, and the verdict says so.

The adapters replace the policy of a trainer by a softmax policy of this package. The score of
your own policy is a different question, and `check_gradient` answers it: the claimed
gradient of log π at one parameter vector, state and action, against differences.

>>> from reinforce_np import check_gradient
>>> def log_prob(theta):                                  # yours: of action 1, by your own code
...     return theta[1] - np.log(np.exp(theta).sum())
>>> theta = np.array([0.2, -1.0, 0.5])
>>> print(check_gradient(log_prob, np.array([0.0, 1.0, 0.0]) - 1 / 3, theta))      # π taken as uniform
gradient WRONG in 3 of 3 components: no simple factor, sign or permutation explains it ...
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import numpy as np

from reinforce_np import arguments
from reinforce_np.checks.differences import finite_difference
from reinforce_np.exact import callables
from reinforce_np.trajectories import Trajectories

STEP = 1e-20  # of the complex step: nothing is subtracted, so that it can be tiny
PROBE = 1e-5  # of the differences that tell whether a loss is analytic
PROBED = 1e-6  # relative to the terms of a directional derivative: what they cannot tell from zero
ASKED_AGAIN = 16  # times that a loss which has no derivative is asked for one value: what is random shows
SINGLE = float(np.finfo(np.float32).eps)
FIELDS = (
    "states", "actions", "rewards", "lengths", "terminated", "truncated", "final_states", "log_probabilities",
    "groups", "mask",
)  # fmt: skip


def numpy_loss(loss: Callable, *, maximise=False, all_actions=False, differences=False):
    """Make an estimator of a loss written in NumPy, by the complex step.

        w[n,t] = −Im loss(log π + i·h·e[n,t]) / h

    The loss is called with complex log-probabilities. ``exp``, sums, products and ``where`` are exact;
    ``minimum``, ``maximum``, ``clip`` and comparisons look at the real part, which is right except exactly
    at a kink. What loses the imaginary part is not: ``abs``, ``std``, ``float`` and ``real`` of a
    log-probability. Each batch is therefore checked once against differences, and refused where they disagree.

    Parameters
    ----------
    loss : callable
        ``loss(log_probs, trajectories)`` or ``loss(log_probs, trajectories, problem)``, a number: of
        the log-probabilities (N, T) of the actions taken, in nats, and a `Trajectories`. Everything
        that it does not compute from `log_probs` is a constant: ``trajectories.log_probabilities``,
        those of the policy that drew the actions, take the place of "old" ones. A "stop-gradient" of the
        policy's own is ``problem.policy.log_probabilities(problem.theta)[trajectories.states, trajectories.actions]``,
        which is the same only where the policy drew the actions itself; those of the reference are
        ``problem.policy.log_probabilities_of("reference", problem.reference)[...]``. At the padding of an episode
        `log_probs` are those of action 0 in state 0 and ``trajectories.log_probabilities`` zero: multiply by
        ``trajectories.mask``.
    maximise : bool
        False: the estimate is *minus* the derivative of the loss, which is minimised. True: an
        objective is meant, and the estimate is its derivative.
    all_actions : bool
        Whether the loss wants the table (N, T, A) of the log-probabilities of every action, as an
        entropy or a full KL divergence does; −inf for actions that are masked.
    differences : bool
        Take central differences instead, where a loss is not analytic. The estimate is then declared to
        be of single precision, float32, and refused where it is worse than that. They go through ``real`` and
        whatever else is meant to stop a gradient.

    Returns
    -------
    callable
        ``f(trajectories, theta, problem)``, an estimate (D,).

    Raises
    ------
    TypeError
        When the loss takes another number of arguments, does not return a number, or has no use for complex input.
    ValueError
        From the estimator, at a batch where the complex step and differences disagree; because the loss
        answers differently when it is asked again, if that is why.

    References
    ----------
    Squire & Trapp, "Using Complex Variables to Estimate Derivatives of Real
    Functions", SIAM Review 40 (1998), equation (3).

    Examples
    --------
    PPO's clipped surrogate, where the data are those of another policy:

    >>> from reinforce_np import Problem, TabularSoftmax, examples, judge
    >>> def ppo(log_probs, batch):
    ...     ratio = np.exp(log_probs - batch.log_probabilities)
    ...     surrogate = np.minimum(ratio * batch.rewards, np.clip(ratio, 0.8, 1.2) * batch.rewards)
    ...     return -(surrogate * batch.mask).sum(axis=1).mean()
    >>> problem = Problem(examples.bandit(means=[0.0, 1.0, 5.0]), TabularSoftmax(1, 3), np.zeros(3))
    >>> judge(numpy_loss(ppo), problem).kind
    'unbiased'
    >>> print(judge(numpy_loss(ppo), problem, behaviour=np.array([[0.5, 0.4, 0.1]])))
    biased for the gradient of Discounted: relative bias 1.09, cosine -0.3273; ... mean -0.111111, gradient 1
    """
    by = _by_differences if arguments.flag("differences", differences) else _by_complex_step
    return _estimator(loss, by, _as_it_is, maximise, all_actions)


def torch_loss(loss: Callable, *, maximise=False, all_actions=False, precision=np.float64):
    """Make an estimator of a loss written in PyTorch, by `torch.autograd.grad`.

        w[n,t] = −∂loss / ∂log π(a[n,t]|s[n,t])

    Parameters
    ----------
    loss : callable
        ``loss(log_probs, batch)`` or ``loss(log_probs, batch, problem)``, a tensor with one element. `log_probs`
        is a leaf tensor (N, T) of the log-probabilities of the actions taken; `batch` holds the
        arrays of `Trajectories` and its ``mask`` as tensors, under the same names.
        ``batch.log_probabilities`` are those of the policy that drew the actions ("old"); ``detach`` works.
        At the padding of an episode `log_probs` are those of action 0 in state 0 and ``batch.log_probabilities``
        zero: multiply by ``batch.mask``.
    maximise, all_actions
        As in `numpy_loss`.
    precision : dtype, of NumPy or PyTorch
        Of the floating-point tensors: float64, or float32 to judge a loss as it runs in training.
        The verdict then allows for the rounding of that type.

    Returns
    -------
    callable
        ``f(trajectories, theta, problem)``, an estimate (D,) of this precision.

    Raises
    ------
    ImportError
        Without PyTorch, when the estimator is first called.
    TypeError
        When the loss takes another number of arguments, or does not return a tensor with one element.

    Examples
    --------
    >>> from reinforce_np import Problem, TabularSoftmax, examples, judge
    >>> def dr_grpo(log_probs, batch):
    ...     returns = (batch.rewards * batch.mask).sum(1)
    ...     advantages = (returns - returns.mean())[:, None] * batch.mask
    ...     return -((log_probs - log_probs.detach()).exp() * advantages).sum(1).mean()
    >>> estimator = torch_loss(dr_grpo)
    >>> problem = Problem(examples.bandit(means=[0.0, 1.0, 5.0]), TabularSoftmax(1, 3), np.zeros(3), group_size=4)
    >>> print(judge(estimator, problem))  # doctest: +SKIP
    proportional to the gradient of Discounted with factor 0.75 (relative bias 0.25)
    """
    precision = _dtype(precision)
    return _estimator(loss, partial(_by_torch, precision), partial(_to_tensors, precision), maximise, all_actions)


def _dtype(precision):
    """Return NumPy's dtype of one of NumPy or PyTorch, if it is floating-point."""
    try:
        found = np.dtype(str(precision).removeprefix("torch.") if str(precision).startswith("torch.") else precision)
    except TypeError:
        found = None
    if found is None or found.kind != "f" or found.itemsize > 8:
        raise ValueError(
            f"precision={found or precision} is no type of tensor here; pass np.float64, np.float32 or np.float16"
        )
    return found


def _to_tensors(precision, trajectories):
    torch = _imported("torch", "torch_loss", "PyTorch")
    kind = getattr(torch, precision.name)
    return _converted(trajectories, lambda x: torch.tensor(x, dtype=kind if x.dtype.kind == "f" else None))


def _by_torch(precision, f, log_probs, batch):
    """Return ∂loss/∂log_probs by PyTorch."""
    torch = _imported("torch", "torch_loss", "PyTorch")
    with torch.enable_grad():
        leaf = torch.tensor(log_probs, dtype=getattr(torch, precision.name), requires_grad=True)
        value = f(leaf, batch)
        if not isinstance(value, torch.Tensor) or np.prod(value.shape) != 1:
            raise _not_a_number(f, value)
        if not getattr(value, "requires_grad", False):  # a constant, where all of a batch is filtered out
            return np.zeros(log_probs.shape, dtype=precision)
        (slope,) = torch.autograd.grad(value, leaf, allow_unused=True)
    return np.zeros(log_probs.shape, dtype=precision) if slope is None else slope.cpu().numpy()


def jax_loss(loss: Callable, *, maximise=False, all_actions=False):
    """Make an estimator of a loss written in JAX, by `jax.grad`.

        w[n,t] = −∂loss / ∂log π(a[n,t]|s[n,t])

    JAX computes in float32 unless ``jax_enable_x64`` is set; the verdict allows for the rounding of what it is.

    Parameters
    ----------
    loss : callable
        As in `torch_loss`, of JAX arrays; ``jax.lax.stop_gradient`` works.
    maximise, all_actions
        As in `numpy_loss`.

    Returns
    -------
    callable
        ``f(trajectories, theta, problem)``, an estimate (D,) of the precision of JAX.

    Raises
    ------
    ImportError
        Without JAX, when the estimator is first called.
    TypeError
        When the loss takes another number of arguments, or does not return a number.

    Examples
    --------
    >>> from reinforce_np import Problem, TabularSoftmax, examples, judge
    >>> estimator = jax_loss(lambda log_probs, batch: -(log_probs * batch.rewards * batch.mask).sum(1).mean())
    >>> problem = Problem(examples.bandit(means=[0.0, 1.0, 5.0]), TabularSoftmax(1, 3), np.zeros(3))
    >>> judge(estimator, problem).kind  # doctest: +SKIP
    'unbiased'
    """
    return _estimator(loss, _by_jax, _to_jax, maximise, all_actions)


def _to_jax(trajectories):
    return _converted(trajectories, _imported("jax.numpy", "jax_loss", "JAX").asarray)


def _by_jax(f, log_probs, batch):
    """Return ∂loss/∂log_probs by JAX."""
    jax, jnp = _imported("jax", "jax_loss", "JAX"), _imported("jax.numpy", "jax_loss", "JAX")

    def value_of(x):
        value = f(x, batch)
        if isinstance(value, tuple | list | dict) or jnp.size(value) != 1:
            raise _not_a_number(f, value)
        return jnp.reshape(jnp.asarray(value, dtype=x.dtype), ())

    return np.asarray(jax.grad(value_of)(jnp.asarray(log_probs)))


def _estimator(loss, slope_of, convert, maximise, all_actions):
    """Return f(trajectories, theta, problem), given how a loss is differentiated and what it wants to see."""
    sign = 1.0 if arguments.flag("maximise", maximise) else -1.0
    arguments.flag("all_actions", all_actions)
    n = callables.n_required(loss) if callable(loss) else 0
    if n not in (2, 3):
        raise TypeError(
            f"loss={loss!r}: pass a function loss(log_probs, trajectories) or loss(log_probs, trajectories, problem)"
        )
    return _FromLoss(loss, n, slope_of, convert, sign, all_actions)


@dataclass(frozen=True, eq=False)
class _FromLoss:
    """An estimate from a loss: a record and no closure, so that it can be sent to other processes."""

    loss: Callable
    n_arguments: int
    slope_of: Callable
    convert: Callable
    sign: float
    all_actions: bool

    def __post_init__(self):
        for name in ("__name__", "__qualname__"):  # it is called what the loss is called
            object.__setattr__(self, name, callables.name_of(self.loss))

    def __repr__(self):
        return f"<function {callables.name_of(self.loss)} at {id(self):#x}>"

    def __call__(self, trajectories, theta, problem):
        policy = problem.policy
        trajectories = trajectories.of_model(policy.n_states, policy.n_actions)
        states, actions = trajectories.states, trajectories.actions
        table, all_actions = policy.log_probabilities(theta), self.all_actions

        def f(log_probs, batch):
            return self.loss(log_probs, batch) if self.n_arguments == 2 else self.loss(log_probs, batch, problem)

        f.__name__ = callables.name_of(self.loss)
        log_probs = table[states] if all_actions else table[states, actions]
        if not all_actions:  # the action that fills up an episode may be masked, and −∞ times a mask is no number
            log_probs = np.where(~trajectories.mask & np.isneginf(log_probs), 0.0, log_probs)
        slope = self.slope_of(f, log_probs, self.convert(trajectories))
        cells = np.zeros(table.shape)
        np.add.at(cells, states if all_actions else (states, actions), self.sign * slope.astype(np.float64))
        return policy.contract(theta, cells).astype(slope.dtype)


def _as_it_is(trajectories):
    return trajectories


def _by_complex_step(f, log_probs, batch):
    """Return ∂loss/∂log_probs, exact to rounding, or refuse a loss that is not analytic here."""
    slope = np.empty(log_probs.shape)
    for i in np.ndindex(log_probs.shape):
        moved = log_probs.astype(complex)
        moved[i] += 1j * STEP
        try:
            value = f(moved, batch)
        except (TypeError, np.exceptions.ComplexWarning) as error:
            f(log_probs.copy(), batch)  # what has nothing to do with complex numbers is raised here
            raise TypeError(
                f"{f.__name__} cannot be evaluated at complex log-probabilities: {error}; write it with functions of NumPy "
                "that take complex numbers, or pass differences=True"
            ) from None
        slope[i] = _number(f, value).imag / STEP
    _check_analytic(f, log_probs, batch, slope)
    return slope


def _check_analytic(f, log_probs, batch, slope):
    """Compare the derivative along one direction with differences: a lost imaginary part is not small."""
    finite = np.isfinite(log_probs)
    along = np.where(finite, 1.0 + 0.5 * np.sin(1.7 * np.arange(log_probs.size)).reshape(log_probs.shape), 0.0)

    def at(h):
        return _number(f, f(log_probs + h * along, batch)).real

    with np.errstate(invalid="ignore"):
        claimed = slope * along
    values = np.array([at(PROBE), at(-PROBE), at(2 * PROBE), at(-2 * PROBE)])
    if not np.isfinite(values).all() or not np.isfinite(claimed).all():
        return  # refused by name where estimates are looked at
    near, far = (values[0] - values[1]) / (2 * PROBE), (values[2] - values[3]) / (4 * PROBE)
    allowed = PROBED * (np.abs(claimed).sum() + np.abs(values).max()) + abs(near - far)
    if abs(claimed.sum() - near) > allowed:
        _check_repeatable(f, log_probs, batch)
        raise ValueError(
            f"{f.__name__} is not analytic, or has a kink, at {_described(batch)}: along one direction the complex step "
            f"gives {claimed.sum():.6g} and differences {near:.6g}. abs, std, float and real lose the derivative: write "
            "them out (np.where(x.real < 0, -x, x) for abs), or pass differences=True; where real is meant to stop the gradient, "
            "take problem.policy.log_probabilities(problem.theta)[batch.states, batch.actions] in a loss(log_probs, batch, problem)"
        )


def _by_differences(f, log_probs, batch):
    """Return ∂loss/∂log_probs in single precision."""
    largest = 0.0

    def values(points):
        nonlocal largest
        found = [_number(f, f(point.reshape(log_probs.shape), batch)).real for point in points]
        largest = max(largest, float(np.abs(found).max()))
        return np.array(found)

    slope, bound = finite_difference(values, log_probs.ravel())
    if bound.max(initial=0.0) > SINGLE * max(np.abs(slope).max(initial=0.0), largest):
        _check_repeatable(f, log_probs, batch)
        raise ValueError(
            f"{f.__name__} is too rough at {_described(batch)} for differences: its derivative is only known to "
            f"{bound.max():.1e}. it has a kink or a jump; move theta, or the limits of its clipping"
        )
    return slope.reshape(log_probs.shape).astype(np.float32)


def _check_repeatable(f, log_probs, batch):
    """Refuse a loss that answers differently when it is asked again: what else is wrong with it is then no wonder."""
    answers = [_number(f, f(log_probs.copy(), batch)) for _ in range(ASKED_AGAIN)]
    if len(np.unique(answers)) > 1:
        raise ValueError(
            f"{f.__name__} returned another loss when asked for the same log-probabilities and batch again, at {_described(batch)}: it "
            "draws random numbers or keeps a state between calls, and has no derivative; make it a function of its arguments, "
            "with a generator that is seeded inside, rng = np.random.default_rng(0)"
        )


def _number(f, value):
    """Return a loss as a complex number, refusing what is none."""
    if value is None or isinstance(value, tuple | list):
        raise _not_a_number(f, value)
    value = np.asarray(value)
    if value.size != 1 or value.dtype.kind not in "biufc":
        raise _not_a_number(f, value)
    return complex(value.reshape(()))


def _not_a_number(f, value):
    if value is None:
        return TypeError(f"{f.__name__} returned None; a loss must be returned: is a return statement missing?")
    shape = f"shape {tuple(value.shape)}" if hasattr(value, "shape") else type(value).__name__
    return TypeError(
        f"{f.__name__} returned {shape}; a loss must be one number: reduce it with a sum or a mean, and return it alone"
    )


def _described(batch):
    return callables.describe(batch) if isinstance(batch, Trajectories) else "a batch"


def _converted(trajectories, convert):
    """Return the arrays of a record, and its mask, as what a framework calls an array."""
    return SimpleNamespace(
        **{name: convert(np.array(getattr(trajectories, name))) for name in FIELDS}, n_steps=trajectories.n_steps
    )


def _imported(module, function, name):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{function} needs {name} ({error}); install it, or write the loss for numpy_loss") from None
