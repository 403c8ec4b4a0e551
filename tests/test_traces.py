"""Linear traces: every estimator that has one against the list of all trajectories, and answers known on paper."""

import itertools
from fractions import Fraction

import hypothesis
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import find, grid, problems, score_by_loops, table
from tolerances import EXACT, assert_exact

from reinforce_np import (
    GAE,
    ClippedRatio,
    Constant,
    EntropyBonus,
    Estimator,
    FiniteMDP,
    GeometricMeanRatio,
    KLPenalty,
    LinearSoftmax,
    MaskedRatio,
    NStep,
    OnPolicy,
    PerDecisionRatio,
    PerLength,
    PerToken,
    PerTrajectory,
    RewardToGo,
    SelfNormalisedRatio,
    TabularSoftmax,
    TokenRatio,
    TrajectoryRatio,
    TruncatedRatio,
    VTrace,
    algorithms,
    count_trajectories,
    exact,
    examples,
    graph,
    random_mdp,
)
from reinforce_np.exact import moments, moments_by_enumeration, moments_by_recursion, pairs, recursion, traces
from reinforce_np.exact.laws import has_recursion

FLOOR = 1e-3  # of the largest component: what a smaller one is rounded by
REFEREE = examples.referee(horizon=3)
POLICY = TabularSoftmax(3, 3)
THETA = np.array([0.3, -0.5, 1.0, 0.0, 0.7, -1.2, -0.4, 0.2, 0.9])
OTHER = np.linspace(-0.6, 0.8, 9)  # behaviour and reference
CRITIC = np.array([0.5, -1.0, 2.0])


def assert_moments(found, expected, tolerance=EXACT):
    """Mean, variance and covariance within the tolerance of the root mean square of each component."""
    rms = np.sqrt(expected.second_moment)
    scale = np.maximum(rms, FLOOR * max(rms.max(initial=0.0), 0.1))
    assert np.all(np.abs(found.mean - expected.mean) <= tolerance * scale)
    assert np.all(np.abs(found.variance - expected.variance) <= tolerance * scale**2)
    assert np.all(np.abs(found.second_moment - expected.second_moment) <= tolerance * scale**2)
    if found.covariance is not None:
        assert np.all(np.abs(found.covariance - expected.covariance) <= tolerance * np.outer(scale, scale))


def assert_route(route, estimator, problem, covariances=(False, True), **options):
    """The route agrees with enumeration, with and without a covariance."""
    expected = moments_by_enumeration(estimator, *problem, **options)
    for covariance in covariances:
        found = moments(estimator, *problem, covariance=covariance, route=route, **options)
        assert found.route == route
        assert (found.covariance is not None) == covariance
        assert_moments(found, expected, 1e-10 if covariance else 1e-11)
    return expected


# --- what can be asked


@st.composite
def tables(draw, mdp):
    """A baseline or critic of every shape."""
    S, T = mdp.n_states, mdp.horizon
    return grid(draw, draw(st.sampled_from([(), (S,), (max(T, 1), S), (T + 1, S)])) if T else (), -2, 3, 0.25)


@st.composite
def penalties(draw, policy, places=("reward", "loss")):
    """None, one or two penalties of every kind."""
    chosen = []
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["k1", "k2", "k3", "full", "entropy", "sampled entropy"]))
        if "entropy" in kind:
            chosen.append(EntropyBonus(0.75, place, sampled=kind != "entropy"))
        else:
            corrected = place == "loss" and kind != "full" and draw(st.booleans())
            chosen.append(KLPenalty(grid(draw, (policy.n_parameters,), -1, 1, 0.25), 0.5, kind, place, corrected))
    return tuple(chosen)


@st.composite
def behaviours(draw, policy):
    """None, parameters, or a table."""
    theta = grid(draw, (policy.n_parameters,), -1.5, 1.5, 0.25)
    return draw(st.sampled_from([None, theta, policy.probabilities(theta)]))


@st.composite
def batch_shapes(draw, singles=True):
    """(prompts, group_size) and how many trajectories may be listed for it."""
    limits = {(1, 1): 200, (2, 1): 40, (1, 2): 40, (1, 3): 18, (2, 2): 10}
    shape = draw(st.sampled_from(sorted(limits)[0 if singles else 1 :]))
    return {"prompts": shape[0], "group_size": shape[1]}, limits[shape]


RATIOS = (
    OnPolicy(),
    TokenRatio(),
    TruncatedRatio(1.25),
    MaskedRatio(0.5, 1.5),
    TrajectoryRatio(),
    PerDecisionRatio(),
    PerDecisionRatio(past=False),
    VTrace(),
    VTrace(2.0, 0.5),
    VTrace(0.75, 3.0),
)


@st.composite
def linear_traces(draw, mdp, policy):
    advantage = draw(
        st.sampled_from(
            [
                RewardToGo(draw(tables(mdp))),
                GAE(draw(tables(mdp)), draw(st.sampled_from([0.0, 0.7, 1.0])), draw(st.booleans())),
                NStep(draw(tables(mdp)), draw(st.integers(1, 4)), draw(st.booleans())),
            ]
        )
    )
    ratio = draw(st.sampled_from(RATIOS[:5] if isinstance(advantage, NStep) else RATIOS))
    past = isinstance(ratio, TrajectoryRatio) or (isinstance(ratio, PerDecisionRatio) and ratio.past)
    return Estimator(
        advantage,
        ratio=ratio,
        penalty=draw(penalties(policy, ("reward",) if past else ("reward", "loss"))),
        normaliser=draw(st.sampled_from([PerTrajectory(), Constant(2.5)])),
        discounted_score=draw(st.booleans()),
    )


@settings(max_examples=60)
@given(data=st.data())
def test_every_trace_by_recursion_and_by_enumeration(data):
    options, limit = data.draw(batch_shapes())
    problem = data.draw(problems(horizons=(0, 1, 2, 3), limit=limit))
    hypothesis.assume(count_trajectories(*problem) <= 2 * limit)
    options["behaviour"] = data.draw(behaviours(problem.policy))
    estimator = data.draw(linear_traces(problem.mdp, problem.policy))
    assert has_recursion(estimator, *problem, options["behaviour"])
    assert_route("recursion", estimator, problem, **options)


@st.composite
def cases(draw):
    problem = draw(problems(horizons=(2, 3)))
    return problem, draw(linear_traces(problem.mdp, problem.policy))


def test_the_generator_reaches_what_matters():
    find(
        cases(),
        lambda case: isinstance(case[1].advantage, NStep) and case[1].advantage.n == 3,
        lambda case: any(x.place == "loss" for x in case[1].penalty) and not case[1].discounted_score,
    )


ADVANTAGES = (
    RewardToGo(),
    RewardToGo(np.outer(np.arange(3.0), CRITIC)),
    GAE(CRITIC, 0.7),
    GAE(np.outer([1.0, -1.0, 0.5, 2.0], CRITIC), 0.4, bootstrap_at_truncation=True),
    NStep(CRITIC, 1),
    NStep(CRITIC, 2, bootstrap_at_truncation=True),
    NStep(CRITIC, 3),
)
PENALTIES = (
    *((KLPenalty(OTHER, 0.5, kind, "reward"),) for kind in ("k1", "k2", "k3", "full")),
    (EntropyBonus(0.5), EntropyBonus(0.25, sampled=False)),
    *((KLPenalty(OTHER, 0.5, kind, "loss"),) for kind in ("k1", "k2", "k3", "full")),
    (KLPenalty(OTHER, 0.5, "k3", "loss", corrected=True), EntropyBonus(0.25, "loss", sampled=False)),
    (EntropyBonus(0.5, "loss"), KLPenalty(OTHER, 0.5, "full", "loss")),
)


@pytest.mark.parametrize("ratio", RATIOS, ids=repr)
def test_every_slot_with_every_other(ratio):
    """Every pair of advantage, ratio and penalty; normaliser and discount take turns."""
    everything = itertools.product(enumerate(ADVANTAGES), enumerate(((), *PENALTIES)))
    offset = RATIOS.index(ratio)
    chosen = [(a, p) for (i, a), (j, p) in everything if (i + j + offset) % 3 == 0]
    for n, (advantage, penalty) in enumerate(chosen):
        if isinstance(advantage, NStep) and isinstance(ratio, PerDecisionRatio | VTrace):
            continue  # see test_a_bank_of_traces_takes_no_ratio_per_decision
        estimator = Estimator(
            advantage,
            ratio=ratio,
            penalty=penalty,
            normaliser=(PerTrajectory(), Constant(4))[n % 2],
            discounted_score=n % 3 > 0,
        )
        past = isinstance(ratio, TrajectoryRatio) or ratio == PerDecisionRatio()
        accepted = not (past and any(p.place == "loss" for p in penalty))
        problem = REFEREE.replace(horizon=2 if n % 8 else 3, gamma=(0.9, 0.5, 1.0)[n % 3]), POLICY, THETA
        if np.ndim(getattr(advantage, "critic", getattr(advantage, "baseline", 0))) == 2:
            problem = REFEREE, POLICY, THETA
        assert has_recursion(estimator, *problem, OTHER) == accepted
        if accepted:
            assert_route("recursion", estimator, problem, (n % 5 > 0,), behaviour=OTHER)


@pytest.mark.parametrize(
    "estimator",
    [
        Estimator(RewardToGo(), normaliser=PerLength()),
        Estimator(RewardToGo(), normaliser=PerToken()),
        Estimator(RewardToGo(), ratio=SelfNormalisedRatio()),
        Estimator(RewardToGo(), ratio=GeometricMeanRatio()),
        Estimator(RewardToGo(), ratio=TruncatedRatio(2.0, TrajectoryRatio())),
        Estimator(RewardToGo(), ratio=MaskedRatio(0.5, 2.0, TrajectoryRatio())),
        Estimator(RewardToGo(), ratio=ClippedRatio(0.0, 0.2)),
        Estimator(RewardToGo(), ratio=ClippedRatio(0.2, 0.0)),
    ],
)
def test_what_has_no_recursion_is_refused(estimator):
    with pytest.raises(ValueError, match="has no recursion; use moments_by_enumeration"):
        moments(estimator, REFEREE, POLICY, THETA, route="recursion")
    assert not has_recursion(estimator, REFEREE, POLICY, THETA)


@pytest.mark.parametrize("n", [1, 2])
def test_a_bank_of_traces_takes_no_ratio_per_decision(n):
    for ratio in (PerDecisionRatio(), PerDecisionRatio(past=False), VTrace()):
        with pytest.raises(TypeError, match="corrects reward by reward"):
            Estimator(NStep(0.0, n), ratio=ratio)


def test_a_bank_reads_the_trace_before_its_own():
    """Which four steps show: the last step is the same for every trace, and one before it nothing is read yet."""
    mdp = random_mdp(n_states=2, n_actions=2, n_outcomes=2, horizon=4, rng=0)
    for n in (3, 4):
        assert_route(
            "recursion", Estimator(NStep(CRITIC[:2], n)), (mdp, TabularSoftmax(2, 2), THETA[:4]), behaviour=OTHER[:4]
        )


def test_a_clip_that_cannot_bind_is_none_and_one_that_can_is_refused():
    clipped, plain = Estimator(RewardToGo(), ratio=ClippedRatio(0.2, 0.3, dual=2.0)), algorithms.reinforce()
    found = moments(clipped, REFEREE, POLICY, THETA, covariance=True)
    assert found.route == "recursion"
    assert_moments(found, moments_by_enumeration(clipped, REFEREE, POLICY, THETA))
    assert_moments(found, moments(plain, REFEREE, POLICY, THETA, route="enumeration"))
    assert not has_recursion(clipped, REFEREE, POLICY, THETA, OTHER)


def test_behaviour_that_the_mask_leaves_alone():
    """Where both policies are masked the ratio is 0/0, and counts nothing."""
    policy = TabularSoftmax(3, 3, mask=np.array([[True, True, False], [True] * 3, [False, True, True]]))
    for ratio in RATIOS:
        assert_route("recursion", Estimator(RewardToGo(0.5), ratio=ratio), (REFEREE, policy, THETA), behaviour=OTHER)
    with pytest.raises(ValueError, match=r"behaviour\[0, 1\]=0 where the policy has probability"):
        moments_by_recursion(
            algorithms.reinforce(), REFEREE, policy, THETA, behaviour=np.array([[1.0, 0, 0], [0.5, 0.25, 0.25], [0, 0.5, 0.5]])
        )  # fmt: skip


# --- against the oracle, in fractions


@pytest.mark.parametrize("kind", ["baseline", "undiscounted score", "gae"])
def test_full_covariance_in_fractions(kind):
    mdp, psi, pi = REFEREE.replace(horizon=2), score_by_loops(POLICY, THETA), table(POLICY, THETA)
    b = [[Fraction(1, 2), Fraction(-1), Fraction(2)], [Fraction(3), Fraction(1, 4), Fraction(0)]]
    lam, gamma = Fraction(3, 4), Fraction(mdp.gamma)

    def gae(steps, terminated, final_state):
        total = [Fraction(0)] * 9
        V = [b[t][s] for t, (s, _, _) in enumerate(steps)] + [Fraction(0)]
        delta = [r + gamma * V[t + 1] - V[t] for t, (_, _, r) in enumerate(steps)]
        for t, (s, a, _) in enumerate(steps):
            A = sum((gamma * lam) ** (u - t) * delta[u] for u in range(t, len(steps)))
            total = [x + gamma**t * A * Fraction(y) for x, y in zip(total, psi[s, a].tolist(), strict=True)]
        return total

    def to_go(steps, *_):
        return reference.reinforce(
            steps, lambda s, a: psi[s, a], mdp.gamma, "to_go", lambda t, s: b[t][s], kind == "baseline"
        )

    mean, covariance = reference.estimator_mean_and_second_moment(mdp, pi, gae if kind == "gae" else to_go)
    numbers = np.array(b, dtype=float)
    advantage = GAE(numbers, 0.75) if kind == "gae" else RewardToGo(numbers)
    found = moments(
        Estimator(advantage, discounted_score=kind != "undiscounted score"), mdp, POLICY, THETA, covariance=True
    )
    assert found.route == "recursion"
    assert_exact(found.mean, mean, scale=10)
    assert_exact(found.covariance, covariance, scale=10)


# --- without a horizon


def coin(c):
    """One state: action 0 pays c and goes on, action 1 pays 1 and ends."""
    return FiniteMDP(
        np.ones((1, 2, 1)),
        np.zeros((1, 2, 1), dtype=int),
        np.array([[[c], [1.0]]]),
        np.array([[[False], [True]]]),
        initial=[1.0],
        gamma=1.0,
        horizon=None,
    )


@pytest.mark.parametrize("c", [2.0, 1.0, -0.5])
@pytest.mark.parametrize("p", [Fraction(1, 4), Fraction(1, 2), Fraction(7, 8)])
def test_a_geometric_episode_by_hand(p, c):
    """L actions 0, then action 1: ĝ = q Σ_{t<L} (c(L−t) + 1) − p = q (c L(L+1)/2 + L) − p, q = 1 − p.

    E[L(L−1)⋯(L−j+1)] = j! (p/q)ʲ gives the moments of L up to the fourth.
    """
    q, c = 1 - p, Fraction(c)
    f1, f2, f3, f4 = (f * (p / q) ** j for j, f in enumerate((1, 2, 6, 24), 1))
    L1, L2, L3, L4 = f1, f2 + f1, f3 + 3 * f2 + f1, f4 + 6 * f3 + 7 * f2 + f1
    x, y = c / 2, c / 2 + 1  # ĝ = q (x L² + y L) − p
    inside = x * L2 + y * L1
    mean = q * inside - p
    second = q**2 * (x**2 * L4 + 2 * x * y * L3 + y**2 * L2) - 2 * p * q * inside + p**2
    theta = np.array([np.log(float(p)), np.log(float(q))])
    found = moments(algorithms.reinforce(), coin(float(c)), TabularSoftmax(1, 2), theta, covariance=True)
    scale = float(second)
    assert_exact(found.mean, [mean, -mean], scale**0.5)
    variance = float(second - mean**2)
    assert_exact(found.covariance, variance * np.array([[1, -1], [-1, 1]]), scale)


def endless_problems():
    ends = examples.referee(horizon=None)
    cycle = examples.baxter_bartlett(gamma=0.9)
    linear = LinearSoftmax(examples.baxter_bartlett_features())
    for gamma in (0.5, 1.0):
        yield ends.replace(gamma=gamma), POLICY, THETA, THETA + 0.25 * np.cos(np.arange(9.0))
    yield cycle, linear, np.array([0.5, -0.5, 0.25, 1.0]), np.array([0.4, -0.4, 0.2, 0.8])


@pytest.mark.parametrize("problem", list(endless_problems()), ids=lambda problem: str(problem[0]))
def test_without_a_horizon_the_limit_of_long_ones(problem):
    mdp, policy, theta, behaviour = problem
    critic = CRITIC if mdp.n_states == 3 else 0.5
    for estimator, mu in (
        (Estimator(RewardToGo(critic)), None),
        (Estimator(GAE(critic, 0.7), penalty=EntropyBonus(0.1)), None),
        (Estimator(NStep(critic, 3), normaliser=Constant(2)), None),
        (Estimator(GAE(critic, 1.0), ratio=VTrace()), behaviour),
        (Estimator(RewardToGo(critic), ratio=PerDecisionRatio(past=False)), behaviour),
        (Estimator(RewardToGo(), penalty=KLPenalty(behaviour, 0.2, "full", "loss")), None),
        (Estimator(RewardToGo(critic), ratio=TokenRatio()), behaviour),
    ):
        options = {"behaviour": mu, "covariance": True, "prompts": 3, "group_size": 4}
        endless = moments(estimator, mdp, policy, theta, **options)
        long = moments(estimator, mdp.replace(horizon=350 if mdp.gamma > 0.5 else 60), policy, theta, **options)
        assert endless.route == "recursion"
        assert 0 <= endless.residual < EXACT and long.residual is None
        assert_moments(endless, long)


def test_without_a_horizon_and_without_a_cycle_by_enumeration():
    mdp = examples.copy_task().replace(horizon=None)
    policy, theta = TabularSoftmax(14, 3), np.sin(np.arange(42.0))
    for ratio in RATIOS[:8]:
        assert_route(
            "recursion",
            Estimator(RewardToGo(0.25), ratio=ratio),
            (mdp, policy, theta),
            behaviour=np.cos(np.arange(42.0)),
        )


@pytest.mark.parametrize("ratio", [TrajectoryRatio(), PerDecisionRatio()])
def test_ratios_without_a_horizon_up_to_where_their_variance_explodes(ratio, monkeypatch):
    """An episode goes on with probability 0.9; its ratios have E[ρ²] = 1/(4μ(1−μ))."""
    mdp = FiniteMDP(
        np.array([[[0.9, 0.1], [0.9, 0.1]]]),
        np.zeros((1, 2, 2), dtype=int),
        np.array([[[1.0, 1.0], [0.0, 0.0]]]),
        np.array([[[False, True], [False, True]]]),
        initial=[1.0],
        gamma=1.0,
        horizon=None,
    )
    estimator, policy, theta = Estimator(RewardToGo(), ratio=ratio), TabularSoftmax(1, 2), np.zeros(2)
    mu = np.array([[0.6, 0.4]])  # E[ρ²] 0.9 = 0.9375
    endless = moments(estimator, mdp, policy, theta, behaviour=mu, covariance=True)
    long = moments(estimator, mdp.replace(horizon=800), policy, theta, behaviour=mu, covariance=True)
    assert_moments(endless, long, 10 * EXACT)
    assert_exact(endless.mean, exact.gradient(mdp, policy, theta), scale=np.sqrt(endless.second_moment).max())
    monkeypatch.setattr(recursion, "MOST_STEPS", 2**12)
    with (
        np.errstate(over="ignore", invalid="ignore"),
        pytest.raises(ValueError, match=r"horizon=None: the (second moment of the return is infinite|moments have not settled)"),
    ):  # fmt: skip
        moments(estimator, mdp, policy, theta, behaviour=np.array([[0.95, 0.05]]))


def test_the_residual_of_a_fixed_point_says_how_far_the_last_step_still_moved(monkeypatch):
    """Stopped early on purpose, what is missing is the residual times the steps still to come, 1/(1 − γ) of them."""
    cycle, policy, theta = examples.baxter_bartlett(gamma=0.9), TabularSoftmax(3, 2), np.sin(np.arange(6.0))
    trace, psi = traces.linear_trace(algorithms.reinforce(), cycle, policy, theta), policy.score_along(theta, np.eye(6))
    settled = recursion.sweep(trace, psi)
    assert 0 < settled.residual <= recursion.SETTLED
    assert (
        recursion.sweep(
            traces.linear_trace(algorithms.reinforce(), cycle.replace(horizon=9), policy, theta), psi
        ).residual
        is None
    )
    monkeypatch.setattr(recursion, "SETTLED", 1e-6)
    early = recursion.sweep(trace, psi)
    missing = np.abs(early.first - settled.first).max() / np.abs(settled.first).max()
    assert 1e-8 < early.residual <= 1e-6
    assert early.residual / 10 < missing < 10 * early.residual / (1 - cycle.gamma)


def test_what_does_not_settle_is_refused(monkeypatch):
    monkeypatch.setattr(recursion, "MOST_STEPS", 256)
    cycle, policy = examples.baxter_bartlett(gamma=0.9), TabularSoftmax(3, 2)
    with pytest.raises(ValueError, match="horizon=None: the moments have not settled after 256 steps; give a horizon"):
        moments(algorithms.reinforce(), cycle.replace(gamma=1 - 1e-7), policy, np.zeros(6))
    with pytest.raises(ValueError, match="have not settled after 256 steps; give a horizon"):  # E[ĝ²] grows for ever
        moments(Estimator(RewardToGo(), discounted_score=False), cycle, policy, np.zeros(6))
    with pytest.raises(ValueError, match="horizon=None: the visits have not settled after 256 steps; give a horizon"):
        # nothing is ever paid and the critic is right about it, but the score goes on for ever
        moments(
            Estimator(RewardToGo(), discounted_score=False), cycle.replace(reward=0 * cycle.reward), policy, np.zeros(6)
        )


def test_states_out_of_reach_do_not_matter(monkeypatch):
    monkeypatch.setattr(recursion, "MOST_STEPS", 256)
    mdp = FiniteMDP(
        np.ones((2, 2, 1)),
        np.array([[[0], [0]], [[1], [1]]]),
        np.array([[[1.0], [0.5]], [[1.0], [1.0]]]),
        np.array([[[True], [False]], [[False], [False]]]),
        initial=[1.0, 0.0],
        gamma=1.0,
        horizon=None,
    )
    found = moments(algorithms.reinforce(), mdp, TabularSoftmax(2, 2), np.zeros(4))
    assert_exact(found.mean, exact.gradient(mdp, TabularSoftmax(2, 2), np.zeros(4)))


def test_a_start_far_from_every_reward_has_its_moments():
    mdp, policy, theta = examples.delayed_chain(length=60, gamma=0.5), TabularSoftmax(61, 2), np.tile([3.0, 0.0], 61)
    endless, long = (
        moments(algorithms.reinforce(), mdp.replace(horizon=T), policy, theta, covariance=True) for T in (None, 61)
    )
    assert long.second_moment[0] > 0
    assert_exact(endless.second_moment / long.second_moment[0], long.second_moment / long.second_moment[0], scale=10)
    assert endless.n_steps == 61


def test_rare_exits_keep_their_digits():
    """Episodes of 127 steps on the average, and the closed form above."""
    test_a_geometric_episode_by_hand(Fraction(127, 128), 1.0)


def test_a_mean_of_zero_settles_too(monkeypatch):
    monkeypatch.setattr(recursion, "MOST_STEPS", 2**12)  # 2^-53 of an episode is left after 2400 steps
    test_a_geometric_episode_by_hand(Fraction(63, 64), 0.0)


# --- cost


@pytest.mark.parametrize("covariance", [False, True])
def test_work_is_linear_in_the_horizon(monkeypatch, covariance):
    calls, one_step, ahead = [], recursion._signals, pairs.Pairs.ahead
    monkeypatch.setattr(recursion, "_signals", lambda trace, t: calls.append(t) or one_step(trace, t))
    monkeypatch.setattr(pairs.Pairs, "ahead", lambda *args: calls.append("pairs") or ahead(*args))
    for T in (5, 50):
        for estimator, expected in (
            (algorithms.reinforce(), ["pairs"] * T),
            (Estimator(NStep(0.5, 3)), list(reversed(range(T)))),
        ):
            calls.clear()
            moments(estimator, REFEREE.replace(horizon=T), POLICY, THETA, covariance=covariance)
            assert calls == expected


def lost_in_a_corner(horizon=12):
    """Six random states, of which the last two cannot be reached; the fourth ends every episode that gets there."""
    mdp = random_mdp(n_states=6, n_actions=3, n_outcomes=3, horizon=horizon, rng=4)
    next_state = np.where(np.arange(6)[:, None, None] < 4, mdp.next_state % 4, mdp.next_state)
    return mdp.replace(next_state=next_state, terminated=next_state == 3, initial=[0.5, 0.0, 0.5, 0, 0, 0])


@pytest.mark.parametrize("policy", [TabularSoftmax(6, 3), LinearSoftmax(np.cos(np.arange(90.0)).reshape(6, 3, 5))])
@pytest.mark.parametrize("sizes", [(2**16, 2**16), (1, 1), (100, 50)], ids=repr)
def test_sweeps_over_pairs_are_sweeps_over_outcomes(monkeypatch, policy, sizes):
    """Longer than can be listed; all steps and states at once, and a few at a time."""
    monkeypatch.setattr(pairs, "OUTCOMES", sizes[0])
    monkeypatch.setattr(pairs, "NUMBERS", sizes[1])
    monkeypatch.setattr(recursion, "NUMBERS", 8 * sizes[1])
    mdp, theta = lost_in_a_corner(), np.sin(np.arange(float(policy.n_parameters)))
    table = np.cos(np.arange(13 * 6.0)).reshape(13, 6)
    for estimator in (
        algorithms.reinforce(),
        Estimator(RewardToGo(table), discounted_score=False),
        Estimator(GAE(table[0], 0.7), penalty=KLPenalty(-theta, 0.5), normaliser=Constant(4)),
        Estimator(GAE(table, 0.4, bootstrap_at_truncation=True), ratio=PerDecisionRatio()),
        Estimator(GAE(0.5, 0.9), ratio=VTrace(0.75, 2.0), penalty=EntropyBonus(0.5, "loss")),
    ):
        trace = traces.linear_trace(estimator, mdp, policy, theta, None if estimator.ratio == OnPolicy() else -theta)
        psi = policy.score_along(theta, np.eye(len(theta)))
        expected = recursion.sweep_by_outcomes(trace, psi, covariance=True)
        rms = np.sqrt(expected.second)
        for covariance in (False, True):
            found = recursion.sweep(trace, psi, covariance=covariance)
            assert_exact(found.first, expected.first, np.maximum(rms, 0.1))
            assert_exact(found.second, expected.second, np.maximum(rms, 0.1) ** 2)
            assert_exact(found.by_state[[0, 2]], expected.by_state[[0, 2]], rms.max())
            two_states = psi * (np.arange(6) < 2)[:, None, None]
            found_there, expected_there = (f(trace, two_states) for f in (recursion.sweep, recursion.sweep_by_outcomes))
            assert_exact(found_there.second, expected_there.second, np.maximum(rms, 0.1) ** 2)
        assert_exact(found.outer, expected.outer, rms.max() ** 2)


@pytest.mark.parametrize("horizon", [1, 2, 5, 6])
def test_states_that_only_the_last_step_reaches_count(horizon):
    mdp = examples.delayed_chain(length=5).replace(horizon=horizon)
    assert graph.reachable(mdp, mdp.probability > 0, horizon - 1).sum() == min(horizon, 5)
    for advantage in (
        RewardToGo(1.0),
        GAE(np.exp(np.arange(6.0)), 0.5, bootstrap_at_truncation=True),  # asks the critic where the last step led
        GAE(np.exp(np.sin(np.arange(6.0 * (horizon + 1)))).reshape(-1, 6), 1.0, bootstrap_at_truncation=True),
        NStep(np.exp(np.arange(6.0)), 1, bootstrap_at_truncation=True),
    ):
        assert_route("recursion", Estimator(advantage), (mdp, TabularSoftmax(6, 2), np.sin(np.arange(12.0))))


def test_a_trace_is_none_where_there_is_none():
    assert traces.linear_trace(Estimator(RewardToGo(), normaliser=PerToken()), REFEREE, POLICY, THETA) is None
    assert traces.linear_trace(algorithms.grpo(), REFEREE, POLICY, THETA) is None
    trace = traces.linear_trace(Estimator(NStep(0.0, 4)), REFEREE, POLICY, THETA)
    assert trace.n_traces == 3
    assert not trace.whole_trajectory
