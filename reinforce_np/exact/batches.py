"""Mean and covariance of any estimator by listing every batch it could see.

A batch is ``prompts`` groups of ``group_size`` trajectories; each group draws
its first state, and its members are drawn independently from there. The order
within a group, and of the groups, does not matter to an `Estimator`, so
its batches are listed as multisets with multinomial weights, and many are
evaluated at once. A function may depend on the order of its batch: unless it
is declared exchangeable, batches are listed in every order. Trajectories
that cannot be told apart are listed once.
"""

import dataclasses

import numpy as np

from reinforce_np import arguments, enumeration, graph
from reinforce_np.estimators import BatchStandardised, Constant, Estimator, GroupStandardised, PerComponent
from reinforce_np.exact import callables, listing
from reinforce_np.exact.record import DOUBLE, Moments
from reinforce_np.exact.values import largest_return, occupancy
from reinforce_np.policies import softmax
from reinforce_np.problem import Problem
from reinforce_np.trajectories import FIELDS, of_checked

LARGEST = 1e120  # rewards and baselines whose squares, summed over an episode, are certain to fit
LARGEST_ESTIMATE = 1e152  # whose square is certain to fit, and that of its inverse
LIMIT = 2**22  # evaluations: trajectories in all listed batches together
MEMORY_LIMIT = 2**30  # bytes of the list of batches
COUNTED = 10**15  # batches, which nobody can list: more are not counted
BYTES_PER_EVALUATION = 32  # an index of eight bytes, and the arrays it is made from
IN_ORDER = 1e-6  # of the largest estimate: what the order in which a function adds up may change
REORDERED = 256  # times the unit rounding, of what cancels: what that may change besides
ASKED_AGAIN = 24  # batches of a block that a function is asked for once more, and blocks of which it is
AT_ONCE = 2**16  # trajectories evaluated at once
NUMBERS = 2**23  # of estimates held at once


def moments_by_enumeration(
    estimator,
    mdp,
    policy,
    theta,
    *,
    prompts=1,
    group_size=1,
    behaviour=None,
    exchangeable=False,
    precision=None,
    limit=LIMIT,
):
    """Return the exact moments of an estimator by listing every batch.

    Parameters
    ----------
    estimator : Estimator or callable
        Any of the family, or f(trajectories, theta) -> (D,), which must answer the same when it is asked again; see `judge`.
    mdp : FiniteMDP
        The model, small enough to be listed.
    policy : TabularSoftmax or LinearSoftmax
        The policy.
    theta : array (D,)
        Its parameters.
    prompts : int
        Number of groups in a batch.
    group_size : int
        Trajectories in a group; they share their first state.
    behaviour : array (D,) or (S, A), optional
        The policy that draws the actions.
    exchangeable : bool
        Declares that a function does not depend on the order of its batch; a few batches are shown in other orders to see.
    precision : dtype, optional
        The floating-point type a function computes in; that of its result if not given.
    limit : int
        Largest number of trajectories in all listed batches together.

    Returns
    -------
    Moments

    Raises
    ------
    TooLargeError
        Before any estimate is made, with the count.
    ValueError
        When the behaviour never does what the policy can do, when a function answers differently when it is asked again, or
        when it was declared exchangeable and the order of a batch does matter.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> mdp, policy = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2)
    >>> moments = moments_by_enumeration(algorithms.rloo(), mdp, policy, np.zeros(2), group_size=2)
    >>> moments.mean, moments.n_batches
    (array([-0.25,  0.25]), 3)
    """
    options = {"prompts": prompts, "group_size": group_size, "behaviour": behaviour}
    problem = Problem(mdp, policy, theta, **options)
    estimator = callables.bound(estimator, problem)
    ours, theta = isinstance(estimator, Estimator), problem.theta
    trajectories, blocks = every_batch(estimator, problem, exchangeable=exchangeable, limit=limit)

    D, total, largest, n_batches, eps = policy.n_parameters, 0.0, 0.0, 0, DOUBLE
    mean, second, covariance = np.zeros(D), np.zeros(D), np.zeros((D, D))
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    for members, weights in blocks:
        estimates, eps = evaluated(estimator, trajectories, members, problem, eps)
        if not ours and len(kept) < ASKED_AGAIN:
            few = spread(len(members))
            kept.append((members[few], estimates[few]))
        largest = max(largest, float(np.abs(estimates).max(initial=0.0)))
        if largest > LARGEST_ESTIMATE:
            break
        part = weights.sum()
        centre = weights @ estimates / part
        covariance += (weights[:, None] * (estimates - centre)).T @ (estimates - centre)
        apart, total = centre - mean, total + part  # blocks around their own centres: nothing cancels
        mean = mean + part / total * apart
        covariance += part * (1 - part / total) * np.outer(apart, apart)
        second += weights @ estimates**2
        n_batches += len(members)
    check_estimates(largest)
    eps = eps if precision is None else max(eps, _rounding_of(precision))
    for members, estimates in kept:
        _check_repeatable(estimator, trajectories, problem, members, estimates)
        if exchangeable:
            check_exchangeable(estimator, trajectories, problem, members, estimates, eps)
    return Moments(
        mean=mean,
        variance=np.diag(covariance).copy(),
        covariance=covariance,
        second_moment=second,
        scale=estimate_scale(estimator, mdp, policy, theta),
        n_steps=trajectories.n_steps,
        n_batches=n_batches,
        route="enumeration",
        precision=eps,
    )


def every_batch(estimator, problem, *, exchangeable=False, limit=LIMIT):
    """Return the trajectories that `estimator` can tell apart, and an iterator over blocks of all batches of them.

    Parameters
    ----------
    estimator : Estimator or callable
        Of one batch; see `callables.bound`.
    problem : Problem
        How batches are drawn.
    exchangeable : bool
        As in `moments_by_enumeration`.
    limit : int
        As in `moments_by_enumeration`.

    Returns
    -------
    tuple of Trajectories and iterator
        A block holds the members of each batch, (B, prompts·group_size), and its probability, (B,).
    """
    mdp, policy, theta, behaviour = problem.mdp, problem.policy, problem.theta, problem.behaviour
    ours = isinstance(estimator, Estimator)
    in_order = not (arguments.flag("exchangeable", exchangeable) or ours)
    shape = {"prompts": problem.prompts, "group_size": problem.group_size, "in_order": in_order}
    size = problem.prompts * problem.group_size
    check_support(mdp, policy, theta, behaviour)
    if ours:
        check_sizes(estimator, mdp)
    if not ours or size > 1:  # one trajectory of an `Estimator` is a batch: those that look the same are not looked for
        check_count(n_distinguishable(estimator, problem, limit), limit, **shape)
    trajectories, p = enumeration.enumerate_trajectories(mdp, policy, theta, behaviour=behaviour, limit=limit)
    if not ours or size > 1:
        trajectories, p = distinguishable(estimator, trajectories, p)
    first = trajectories.states[:, 0] if trajectories.n_steps else trajectories.final_states
    starts = [np.flatnonzero(first == s) for s in np.flatnonzero(mdp.initial > 0)]
    rows = max(min(AT_ONCE // size, NUMBERS // policy.n_parameters), 1)
    return trajectories, listing.batches(starts, p, mdp.initial[mdp.initial > 0], rows=rows, **shape)


def distinguishable(estimator, trajectories, p):
    """Return one trajectory of every class that `estimator` cannot tell apart, and the probability of the class.

    To a function, two trajectories are the same when all that is recorded of
    them is. An `Estimator` reads the final state only to bootstrap a critic.
    """
    columns = [trajectories.states, trajectories.actions, trajectories.rewards, trajectories.log_probabilities]
    columns += [trajectories.lengths, trajectories.terminated]
    if _reads_final_states(estimator):
        columns.append(trajectories.final_states)
    else:  # but it is the first state too where nothing ever happens
        columns.append(np.where(trajectories.lengths == 0, trajectories.final_states, -1))
    index, label = _different(columns)
    in_order = np.argsort(index)
    return trajectories.take(index[in_order]), np.bincount(label, weights=p)[in_order]


def n_distinguishable(estimator, problem, limit):
    """Return how many trajectories from each first state there are that `estimator` can tell apart, without listing any.

        n₀(s) = 1,    nₜ(s) = Σ over different (a, r, s', terminated) of (1 if terminated else nₜ₋₁(s'))

    At the end of an episode s' counts only for those that read the final state.
    """
    mdp = problem.mdp
    log_mu, n_steps = enumeration.affordable(
        mdp, problem.policy, problem.theta, behaviour=problem.behaviour, limit=limit
    )
    possible = graph.possible_outcomes(mdp, np.exp(log_mu))
    possible &= graph.reachable(mdp, possible)[:, None, None]
    s, a, k = np.nonzero(possible)
    r, target, ends = mdp.reward[s, a, k], mdp.next_state[s, a, k], mdp.terminated[s, a, k]
    counts = np.ones(mdp.n_states)  # not more than `limit` where an episode can be: exact
    for left in range(1, n_steps + 1):
        if left <= 2:  # the last step, and all before it
            shown = target if _reads_final_states(estimator) else np.where(ends | (left == 1), -1, target)
            cells, _ = _different([s, a, r, shown, ends])
        counts = np.bincount(
            s[cells], weights=np.where(ends[cells], 1.0, counts[target[cells]]), minlength=mdp.n_states
        )
    return [int(n) for n in counts[mdp.initial > 0]]


def _reads_final_states(estimator):
    """Return whether it matters to an estimator in which state an episode ended: to a function all that is recorded does."""
    advantage = getattr(estimator, "advantage", None)
    return advantage is None or hasattr(getattr(advantage, "of", advantage), "critic")


def _different(columns):
    """Return the first row of each kind in a table of such columns, and the kind of every row: equal to the last bit."""
    table = np.ascontiguousarray(np.column_stack(columns), dtype=np.float64)
    keys = table.view(np.dtype((np.void, table.shape[1] * table.itemsize))).ravel()
    _, index, kind = np.unique(keys, return_index=True, return_inverse=True)
    return index, kind.ravel()


def evaluated(estimator, trajectories, members, problem, eps=DOUBLE):
    """Return the estimate of each batch, shape (B, D), and the largest unit rounding of `eps` and the estimates."""
    if isinstance(estimator, Estimator):
        return _evaluate(estimator, trajectories, members, problem), eps
    return _evaluate_function(estimator, trajectories, members, problem, eps)


def _evaluate(estimator, trajectories, members, problem):
    """Return the estimate of each batch, shape (B, D), for batches given as rows of indices (B, prompts·group_size)."""
    n_batches, size = members.shape
    labels = np.repeat(np.arange(n_batches), size)
    batch = estimator.batch(
        dataclasses.replace(
            trajectories.take(members.ravel()), groups=np.arange(n_batches * size) // problem.group_size
        ),
        problem.mdp,
        problem.policy,
        problem.theta,
        labels=labels,
    )
    return estimator.contract(batch, labels, n_batches)


def _evaluate_function(function, trajectories, members, problem, eps):
    """Return the estimate of each batch, shape (B, D), and the largest unit rounding of `eps` and the estimates."""
    groups = np.arange(members.shape[1]) // problem.group_size
    estimates = np.empty((len(members), len(problem.theta)))
    fields = {name: getattr(trajectories, name)[members] for name in FIELDS}
    for i in range(len(members)):
        batch = of_checked({name: array[i] for name, array in fields.items()} | {"groups": groups})
        found = callables.estimate_of(function, batch, problem.theta)
        estimates[i] = found
        if found.dtype != np.float64 and found.dtype.kind == "f":
            eps = max(eps, float(np.finfo(found.dtype).eps))
    return estimates, eps


def spread(n):
    """Return the indices of a few of n batches, the first and the last among them: what is random shows in some."""
    return np.unique(np.linspace(0, n - 1, min(n, ASKED_AGAIN)).astype(np.intp))


def batch_of(trajectories, members, groups):
    """Return the batch with these members and groups."""
    fields = {name: getattr(trajectories, name)[members] for name in FIELDS}
    return of_checked({**fields, "groups": groups})


def _check_repeatable(function, trajectories, problem, members, expected):
    """Refuse a function that answers differently when it is asked again: it has a state, or draws random numbers."""
    again, _ = _evaluate_function(function, trajectories, members, problem, DOUBLE)
    if not np.array_equal(again, expected):
        raise ValueError(
            f"{callables.name_of(function)} returned another estimate when asked for the same batch again: it keeps a "
            "state between calls or draws random numbers, so that its moments cannot be listed; make it a function of its arguments"
        )


def check_exchangeable(function, trajectories, problem, members, expected, eps):
    """Refuse a function whose estimates (B, D) of batches, given as rows of indices, are others when their order is another.

    Trajectories of a group stay together: they, and the groups, are shuffled, each batch in its own way (and few batches in
    several), the same every time. Sums in another order, with the unit rounding `eps`, may differ by what cancels in them.
    """
    if members.shape[1] == 1:
        return
    again = np.resize(np.arange(len(members)), max(len(members), ASKED_AGAIN))
    members, expected = members[again], expected[again]
    rng, grouped = np.random.Generator(np.random.PCG64(0)), np.arange(members.shape[1]).reshape(problem.prompts, -1)
    orders = np.array([rng.permuted(rng.permutation(grouped), axis=1).ravel() for _ in members])
    turned = np.take_along_axis(members, orders, axis=1)
    found, eps = _evaluate_function(function, trajectories, turned, problem, eps)
    off, largest = np.abs(found - expected), np.abs(expected).max(initial=0.0)
    scale = estimate_scale(function, problem.mdp, problem.policy, problem.theta)
    wrong = off > np.maximum(IN_ORDER * largest, REORDERED * eps * (trajectories.n_steps * largest + scale))
    if wrong.any():
        b, d = arguments.first_index(wrong & (off == off[wrong].max()))
        batch = batch_of(trajectories, members[b], np.arange(members.shape[1]) // problem.group_size)
        raise ValueError(
            f"exchangeable=True, but {callables.name_of(function)} depends on the order of its batch: component {d} is "
            f"{expected[b, d]:.6g} for {callables.describe(batch)}, and {found[b, d]:.6g} in the order {orders[b].tolist()}; leave exchangeable out"
        )


def estimate_scale(estimator, mdp, policy, theta):
    """Return the size of the rewards and baselines that may cancel in an estimate, per component, shape (D,).

    Parameters
    ----------
    estimator, mdp, policy, theta
        As in `moments_by_enumeration`.

    Returns
    -------
    array (D,)
    """
    d, pi = occupancy(mdp, policy, theta), policy.probabilities(theta)
    visits = (d if mdp.horizon is None else d.sum(axis=0))[:, None] * pi
    scores = visits * softmax.sum_of_others(pi) + pi * softmax.sum_of_others(visits)  # E Σ|ψ|, on the logits
    size = largest_return(mdp, policy, theta)
    if not isinstance(estimator, Estimator):
        scores += visits  # it may well compute 1 − π as it stands
        return policy.pull_back_magnitudes(scores) / policy.temperature * float(size)
    size += np.max(np.abs(table_of(estimator)))
    if isinstance(estimator.advantage, PerComponent):
        size += np.max(np.abs(estimator.advantage.baseline))
    if isinstance(estimator.advantage, GroupStandardised | BatchStandardised):
        size = 1.0  # a standardised advantage has no unit
    constant = estimator.normaliser.c if isinstance(estimator.normaliser, Constant) else 1.0
    return policy.pull_back_magnitudes(scores) / policy.temperature * float(size / constant)


def check_estimates(largest):
    """Refuse estimates of which the largest, or its square, leaves float64."""
    if largest > LARGEST_ESTIMATE or 0 < largest < 1 / LARGEST_ESTIMATE:
        raise ValueError(
            f"estimates of size {largest:.3g} have second moments that leave float64; divide rewards, baselines and penalties "
            f"by {largest:.1g}"
        )


def check_sizes(estimator, mdp):
    """Refuse rewards and baselines whose squares leave float64, above or below."""
    largest = max(np.abs(mdp.reward).max(), np.max(np.abs(table_of(estimator))))
    if isinstance(estimator.advantage, PerComponent):
        largest = max(largest, np.max(np.abs(estimator.advantage.baseline)))
    if largest > LARGEST or 0 < largest < 1 / LARGEST:
        raise ValueError(
            f"rewards and baselines of size {largest:.3g} have second moments that leave float64; divide them by {largest:.1g}"
        )


def table_of(estimator):
    """Return the baseline or critic of an estimator, zero where it has none."""
    advantage = getattr(estimator.advantage, "of", estimator.advantage)
    table = np.asarray(getattr(advantage, "critic", getattr(advantage, "baseline", 0.0)))
    return table if table.size else np.zeros(1)


def _rounding_of(precision):
    """Return the unit rounding of a dtype of floating-point numbers, or say that it is none."""
    try:
        return float(np.finfo(precision).eps)
    except (ValueError, TypeError):
        raise ValueError(
            f"precision={precision!r} is no dtype of floating-point numbers; pass one such as np.float32"
        ) from None


def check_support(mdp, policy, theta, behaviour):
    """Refuse a behaviour that gives probability zero to what the policy can do: no ratio repairs that."""
    if behaviour is None:
        return
    pi = policy.probabilities(theta)
    steps = None if mdp.horizon is None else max(mdp.horizon - 1, 0)  # after which an action is still drawn
    reached = graph.reachable(mdp, graph.possible_outcomes(mdp, pi), steps)
    missing = (pi > 0) & reached[:, None] & (policy.log_probabilities_of("behaviour", behaviour) == -np.inf)
    if missing.any():
        s, a = arguments.first_index(missing)
        raise ValueError(
            f"behaviour[{s}, {a}]=0 where the policy has probability {float(pi[s, a]):.3g}: "
            "no importance ratio corrects what is never seen; give it probability"
        )


def check_count(sizes, limit, *, prompts, group_size, in_order, qualified="", what=("enumeration", "trajectories")):
    """Refuse more evaluations than `limit`, or than fit into memory, before any is made; numbers may be `qualified`.

    `what` are the route and what it makes batches of.
    """
    n_batches = listing.n_batches(sizes, prompts, group_size, in_order=in_order, most=COUNTED)
    counted = f"{qualified}{n_batches * prompts * group_size}"
    evaluations = f"more than {COUNTED:.0e}" if n_batches > COUNTED else counted
    affordable = min(limit, MEMORY_LIMIT // BYTES_PER_EVALUATION)
    if n_batches > affordable // (prompts * group_size):
        declare = ", or declare it exchangeable if the order of its batch does not matter" if in_order else ""
        raise arguments.TooLargeError(
            f"{what[0]} refused: batches of prompts={prompts} x group_size={group_size} from {qualified}{sum(sizes)} {what[1]} need "
            f"{evaluations} evaluations, above the limit of {affordable} (limit={limit}, and {MEMORY_LIMIT >> 20} MiB): use smaller "
            f"groups, fewer prompts or a shorter horizon{declare}; or `confirm` it by sampling"
        )
