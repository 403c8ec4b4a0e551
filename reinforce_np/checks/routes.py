"""Four routes to the same gradient, side by side.

Recursion contracts the score once; enumeration applies the log-derivative
trick to every trajectory; complex step and differences know nothing but
J(θ). They share little code, so they agree only when all are right.
"""

from dataclasses import dataclass

import numpy as np

from reinforce_np import arguments, enumeration
from reinforce_np.checks.differences import TaylorTest, complex_step, finite_difference, taylor_test
from reinforce_np.exact.derivatives import gradient, gradient_scale
from reinforce_np.exact.enumerated import gradient_by_enumeration, objective_by_enumeration
from reinforce_np.exact.values import objective, occupancy

EXACT = 1e-12  # relative to the largest summed term: what exact routes may differ by
WORK = 2**30  # cells of the recursions that each difference route may visit before it takes a subset of components
COMPLEX_STEP = 1e-10  # relative to what changes the policy: squared it is nothing, and tiny gradients do not underflow
DIFFERENCE_STEP = 2.0**-7
EPS = np.finfo(np.float64).eps


@dataclass(frozen=True, eq=False)
class Route:
    """One route's answer.

    Parameters
    ----------
    name : str
        "recursion", "enumeration", "complex_step" or "finite_difference".
    gradient : array (D,) or None
        NaN-free where computed; None when the route does not apply.
    components : int array
        Which components were computed (all of them unless it costs too much).
    tolerance : array
        How far each of them may be from the recursion.
    disagreement : array
        How far each of them is.
    note : str
        Why the route was skipped or shortened.
    """

    name: str
    gradient: np.ndarray | None
    components: np.ndarray
    tolerance: np.ndarray
    disagreement: np.ndarray
    note: str = ""

    @property
    def agrees(self):
        """Whether every computed component is within its tolerance."""
        return bool(np.all(self.disagreement <= self.tolerance))


@dataclass(frozen=True, eq=False)
class RouteComparison:
    """The answers of all routes, their disagreement, and the Taylor test.

    Parameters
    ----------
    objectives : dict
        J(θ) by the backward recursion, by the forward one, and by
        enumeration (None where refused).
    objective_tolerance : float
        How far they may be apart.
    gradient : array (D,)
        By recursion.
    routes : tuple of Route
        The other three.
    scale : float
        Largest summed term of a component of the gradient: what rounding is
        judged against.
    taylor : TaylorTest
        Of the recursion's gradient.
    """

    objectives: dict
    objective_tolerance: float
    gradient: np.ndarray
    routes: tuple
    scale: float
    taylor: TaylorTest

    @property
    def disagreement(self):
        """Largest difference of any route from the recursion, in any component."""
        return max((float(np.max(route.disagreement, initial=0.0)) for route in self.routes), default=0.0)

    @property
    def objectives_agree(self):
        """Whether J(θ) is the same by every route."""
        known = [J for J in self.objectives.values() if J is not None]
        return max(known) - min(known) <= self.objective_tolerance

    @property
    def agree(self):
        """Whether all routes and the Taylor test agree."""
        return self.objectives_agree and self.taylor.passed and all(route.agrees for route in self.routes)


def compare_routes(mdp, policy, theta, *, limit=enumeration.LIMIT, work=WORK, rng=0):
    """Compute ∇J_γ(θ) by recursion, enumeration, complex step and differences, and compare.

    Parameters
    ----------
    mdp : FiniteMDP
        The model.
    policy : TabularSoftmax or LinearSoftmax
        The policy.
    theta : array (D,)
        Its parameters.
    limit : int
        Largest number of trajectories to enumerate; above it that route says
        so and the rest go on.
    work : int
        Cells that complex step and differences may each visit; above it they
        take a random subset of the components and say so.
    rng : None, int or numpy.random.Generator
        Chooses the subset and the direction of the Taylor test.

    Returns
    -------
    RouteComparison

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples
    >>> comparison = compare_routes(examples.referee(), TabularSoftmax(3, 3), np.zeros(9))
    >>> comparison.agree, comparison.disagreement < 1e-7
    (True, True)
    """
    theta = arguments.real_array("theta", theta, shape=(policy.n_parameters,), minus_infinity=True)
    work, rng = arguments.integer("work", work, low=1), arguments.generator(rng)
    g = gradient(mdp, policy, theta)
    terms, scale = _scales(mdp, policy, theta)
    steps = mdp.horizon if mdp.horizon is not None else 0
    cell = mdp.probability.size * max(steps, 1) if mdp.horizon is not None else mdp.n_states**3

    def J(points):
        return objective(mdp, policy, points)

    noise = EPS * terms * (16 + (steps or mdp.n_states))
    reach = 1.0 / np.where(policy.slopes > 0, policy.slopes, 1.0)  # how far a parameter must move to change the policy
    batch = int(np.clip(2**21 // mdp.probability.size, 1, 64))
    routes = [_enumeration_route(mdp, policy, theta, g, scale, limit)]
    chosen, note = _subset(policy.n_parameters, work // (4 * cell), rng)
    by_complex_step = complex_step(J, theta, step=COMPLEX_STEP * reach, components=chosen, batch=batch)
    tolerance = np.full(len(chosen), EXACT * scale)
    routes.append(Route("complex_step", by_complex_step, chosen, tolerance, np.abs(by_complex_step - g[chosen]), note))
    chosen, note = _subset(policy.n_parameters, work // (6 * cell), rng)
    by_difference, bound = finite_difference(
        J, theta, step=DIFFERENCE_STEP * reach, components=chosen, noise=noise, batch=batch
    )
    routes.append(
        Route("finite_difference", by_difference, chosen, bound + tolerance[0], np.abs(by_difference - g[chosen]), note)
    )
    return RouteComparison(
        objectives={
            "backward": float(J(theta)),
            "forward": _objective_forward(mdp, policy, theta),
            "enumeration": None if routes[0].note else objective_by_enumeration(mdp, policy, theta, limit=limit),
        },
        objective_tolerance=EXACT * terms,
        gradient=g,
        routes=tuple(routes),
        scale=scale,
        taylor=taylor_test(J, g, theta, direction=reach * rng.uniform(-1, 1, size=len(g)), noise=noise),
    )


def _enumeration_route(mdp, policy, theta, g, scale, limit):
    try:
        by_enumeration = gradient_by_enumeration(mdp, policy, theta, limit=limit)
    except arguments.TooLargeError as refusal:
        none = np.zeros(0)
        return Route("enumeration", None, none.astype(int), none, none, str(refusal).removeprefix("enumeration "))
    everything = np.arange(len(g))
    return Route("enumeration", by_enumeration, everything, np.full(len(g), EXACT * scale), np.abs(by_enumeration - g))


def _scales(mdp, policy, theta):
    """Return the sums of absolute terms of J, and of the largest gradient component: rounding is relative to them."""
    magnitudes = mdp.magnitudes
    return float(objective(magnitudes, policy, theta)), float(gradient_scale(mdp, policy, theta).max())


def _objective_forward(mdp, policy, theta):
    """J = Σ_{t,s,a} d_t(s) π(a|s) r(s,a)."""
    d = occupancy(mdp, policy, theta)
    d = d if mdp.horizon is None else d.sum(axis=0)
    return float(np.einsum("s,sa,sa->", d, policy.probabilities(theta), mdp.expected_reward))


def _subset(n_parameters, affordable, rng):
    if affordable >= n_parameters:
        return np.arange(n_parameters), ""
    chosen = np.sort(rng.choice(n_parameters, size=max(int(affordable), 1), replace=False))
    return chosen, f"{len(chosen)} of {n_parameters} components, chosen at random (all of them would take too long)"
