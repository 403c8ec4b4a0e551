"""Estimators against the published losses of losses.py: every algorithm and every choice of every slot."""

import functools
import inspect
from typing import Any, NamedTuple

import losses
import numpy as np
import pytest

from reinforce_np import (
    GAE,
    ActionDependent,
    BatchStandardised,
    ClippedRatio,
    Constant,
    EntropyBonus,
    Estimator,
    GeometricMeanRatio,
    GroupMean,
    GroupStandardised,
    InSampleOptimal,
    KLPenalty,
    LeaveOneOut,
    LinearSoftmax,
    MaskedRatio,
    NStep,
    OnPolicy,
    PerComponent,
    PerDecisionRatio,
    PerLength,
    PerToken,
    PerTrajectory,
    RewardToGo,
    SelfNormalisedRatio,
    TabularSoftmax,
    TokenRatio,
    TotalReturn,
    TrajectoryRatio,
    TruncatedRatio,
    VTrace,
    algorithms,
    estimators,
    examples,
    judge,
    numpy_loss,
    random_mdp,
    sample,
)
from reinforce_np.trajectories import Trajectories

EXACT = 1e-12  # relative to the largest term of the sum
S, A = 3, 3
GROUPS = (40, 40, -7, -7, -7, 3, 3, 3, 3, 3)  # ragged, and no 0..G-1


def test_a_masked_action_that_fills_up_an_episode_is_no_infinity():
    """Padding is action 0 of state 0; where that is masked its logarithm is −∞, and −∞ times a mask of zero is NaN."""
    mdp = examples.referee(horizon=3)
    mask = np.ones((3, 3), bool)
    mask[0, 0] = False

    def loss(log_probs, batch):
        return -(
            (log_probs * batch.mask).sum(axis=1)
            * (batch.rewards * batch.mask * mdp.gamma ** np.arange(batch.n_steps)).sum(axis=1)
        ).mean()

    for differences in (False, True):
        found = judge(
            numpy_loss(loss, differences=differences), mdp, TabularSoftmax(3, 3, mask=mask), np.linspace(-1, 1, 9)
        )
        assert found.kind == "unbiased"


def test_a_masked_action_that_was_taken_has_probability_zero():
    """The behaviour takes it, the policy never does: the ratio of the whole trajectory is zero, at its other steps too."""
    mdp, mask = examples.referee(horizon=2), np.ones((3, 3), bool)
    mask[0, 0] = False

    def surrogate(log_probs, batch):
        ratio = np.exp(np.where(batch.mask, log_probs - batch.log_probabilities, 0.0).sum(axis=1))
        return -(ratio * (batch.rewards * batch.mask * mdp.gamma ** np.arange(batch.n_steps)).sum(axis=1)).mean()

    theta, uniform = np.linspace(-1, 1, 9), np.full((3, 3), 1 / 3)
    assert (
        judge(numpy_loss(surrogate), mdp, TabularSoftmax(3, 3, mask=mask), theta, behaviour=uniform).kind == "unbiased"
    )


class Problem(NamedTuple):
    """A batch off-policy, with everything the hard cases need, and the same as plain lists."""

    mdp: Any
    policy: Any
    theta: Any
    batch: Any
    data: Any
    by_state: Any
    by_time: Any
    per_pair: Any
    reference: Any  # probabilities
    log_reference: Any


def changed(batch, **fields):
    """A copy of the record with some arrays replaced."""
    old = {name: getattr(batch, name) for name in Trajectories.__dataclass_fields__}
    return Trajectories(**{**old, **fields})


def ragged(mdp, policy, theta, behaviour, rng):
    """Ten episodes in three groups of different sizes, two of them of length zero."""
    drawn = sample(mdp, policy, theta, 15, behaviour=behaviour, group_size=5, rng=rng)
    batch = drawn.take(np.array([0, 1, 5, 6, 7, 10, 11, 12, 13, 14]))
    empty = np.isin(np.arange(len(batch)), [3, 9])
    live = batch.mask & ~empty[:, None]
    wide = {name: np.where(live, getattr(batch, name), 0) for name in ("states", "actions", "rewards")}
    return changed(
        batch,
        **wide,
        log_probabilities=np.where(live, batch.log_probabilities, 0.0),
        lengths=np.where(empty, 0, batch.lengths),
        final_states=np.where(empty, batch.states[:, 0], batch.final_states),
        truncated=batch.truncated | empty,
        terminated=batch.terminated & ~empty,
        groups=np.array(GROUPS),
    )


def problem(kind, gamma, horizon, temperature, seed):
    rng = np.random.default_rng(seed)
    mdp = random_mdp(n_states=S, n_actions=A, gamma=gamma, horizon=horizon, termination=0.25, rng=seed)
    if kind == "tabular":
        policy, features = TabularSoftmax(S, A, temperature=temperature), losses.tabular_features(S, A)
    else:
        features = rng.normal(size=(S, A, 4)).tolist()
        policy = LinearSoftmax(features, temperature=temperature)
    theta = rng.normal(size=policy.n_parameters)
    reference = rng.dirichlet(np.full(A, 3.0), size=S)
    batch = ragged(mdp, policy, theta, theta + rng.normal(scale=0.5, size=len(theta)), seed)
    return Problem(
        mdp,
        policy,
        theta,
        batch,
        losses.Data(losses.episodes_of(batch), gamma, features, temperature),
        rng.normal(size=S),
        rng.normal(size=(horizon + 1, S)),
        rng.normal(size=(S, A)),
        reference,
        np.log(reference).tolist(),
    )


PROBLEMS = {
    "tabular, discounted": problem("tabular", 0.9, 4, 1.0, 1),
    "linear": problem("linear", 1.0, 5, 1.0, 2),
    "tabular, cold": problem("tabular", 1.0, 3, 0.7, 3),
    "linear, warm, discounted": problem("linear", 0.9, 4, 1.6, 5),
}


def test_the_problems_contain_the_hard_cases():
    for name, p in PROBLEMS.items():
        lengths, T = p.batch.lengths, p.batch.n_steps
        assert {0, T} <= set(lengths.tolist()), name
        assert len(set(lengths.tolist())) >= 3, name
        assert p.batch.terminated.any(), name
        assert (p.batch.truncated & (lengths == T)).any(), name
        rho = np.exp(p.policy.log_probabilities(p.theta)[p.batch.states, p.batch.actions] - p.batch.log_probabilities)
        assert rho[p.batch.mask].min() < 0.8, name
        assert rho[p.batch.mask].max() > 1.28, name


# (name, estimator of a problem, objective of a problem)
CLIP, NARROW = ClippedRatio(0.2, 0.28), (0.02, 0.03)
ALGORITHMS = [
    ("reinforce", lambda p: algorithms.reinforce(reward_to_go=False), lambda p: losses.reinforce),
    ("reinforce, to go", lambda p: algorithms.reinforce(), lambda p: losses.family(losses.reward_to_go())),
    ("gpomdp", lambda p: algorithms.gpomdp(), lambda p: losses.gpomdp()),
    ("gpomdp, baseline", lambda p: algorithms.gpomdp(baseline=p.by_time), lambda p: losses.gpomdp(p.by_time)),
    (
        "reinforce_with_baseline",
        lambda p: algorithms.reinforce_with_baseline(p.by_state),
        lambda p: losses.gpomdp(p.by_state),
    ),
    ("actor_critic", lambda p: algorithms.actor_critic(p.by_state), lambda p: losses.actor_critic(p.by_state)),
    (
        "actor_critic, score not discounted",
        lambda p: algorithms.actor_critic(p.by_time, discounted_score=False),
        lambda p: losses.actor_critic(p.by_time, discounted=False),
    ),
    ("a2c", lambda p: algorithms.a2c(p.by_state), lambda p: losses.a2c(p.by_state, 1.0, 0.0, False, True)),
    (
        "a2c, all options",
        lambda p: algorithms.a2c(p.by_time, lam=0.7, entropy=0.3, bootstrap_at_truncation=True, discounted_score=False),
        lambda p: losses.a2c(p.by_time, 0.7, 0.3, True, False),
    ),
    ("ppo", lambda p: algorithms.ppo(p.by_time), lambda p: losses.ppo(p.by_time, 0.95, 0.2, 0.0, False, True)),
    (
        "ppo, all options",
        lambda p: algorithms.ppo(
            p.by_state, lam=0.4, epsilon=0.1, entropy=0.2, bootstrap_at_truncation=True, discounted_score=False
        ),
        lambda p: losses.ppo(p.by_state, 0.4, 0.1, 0.2, True, False),
    ),
    ("rloo", lambda p: algorithms.rloo(), lambda p: losses.rloo()),
    (
        "rloo, KL",
        lambda p: algorithms.rloo(reference=p.reference, beta=0.4),
        lambda p: losses.rloo(p.log_reference, 0.4),
    ),
    (
        "reinforce_plus_plus",
        lambda p: algorithms.reinforce_plus_plus(),
        lambda p: losses.reinforce_plus_plus(0.2, 1e-8),
    ),
    (
        "reinforce_plus_plus, all options",
        lambda p: algorithms.reinforce_plus_plus(reference=p.reference, beta=0.4, epsilon=0.1, eps=0.5),
        lambda p: losses.reinforce_plus_plus(0.1, 0.5, p.log_reference, 0.4),
    ),
    (
        "reinforce_plus_plus_baseline",
        lambda p: algorithms.reinforce_plus_plus_baseline(),
        lambda p: losses.reinforce_plus_plus_baseline(0.2, 1e-8),
    ),
    (
        "reinforce_plus_plus_baseline, all options",
        lambda p: algorithms.reinforce_plus_plus_baseline(reference=p.reference, beta=0.4, epsilon=0.1, eps=0.5),
        lambda p: losses.reinforce_plus_plus_baseline(0.1, 0.5, p.log_reference, 0.4),
    ),
    ("grpo", lambda p: algorithms.grpo(), lambda p: losses.grpo(0.2, 0, 0.0)),
    (
        "grpo, all options",
        lambda p: algorithms.grpo(reference=p.reference, beta=0.4, epsilon=0.1, ddof=1, eps=0.3),
        lambda p: losses.grpo(0.1, 1, 0.3, p.log_reference, 0.4),
    ),
    ("dr_grpo", lambda p: algorithms.dr_grpo(), lambda p: losses.dr_grpo(0.2, 1.0)),
    ("dr_grpo, all options", lambda p: algorithms.dr_grpo(c=7, epsilon=0.1), lambda p: losses.dr_grpo(0.1, 7.0)),
    ("dapo", lambda p: algorithms.dapo(), lambda p: losses.dapo(0.2, 0.28, 0, 0.0)),
    (
        "dapo, all options",
        lambda p: algorithms.dapo(lower=0.05, upper=0.15, ddof=1, eps=0.2),
        lambda p: losses.dapo(0.05, 0.15, 1, 0.2),
    ),
    ("gspo", lambda p: algorithms.gspo(), lambda p: losses.gspo(3e-4, 4e-4, 0, 0.0)),
    (
        "gspo, all options",
        lambda p: algorithms.gspo(lower=0.1, upper=0.05, ddof=1, eps=0.2),
        lambda p: losses.gspo(0.1, 0.05, 1, 0.2),
    ),
]

ADVANTAGES = [
    ("total return", lambda p: TotalReturn(baseline=0.7), lambda p: losses.total_return(0.7)),
    ("to go", lambda p: RewardToGo(), lambda p: losses.reward_to_go()),
    ("to go, number", lambda p: RewardToGo(baseline=-0.6), lambda p: losses.reward_to_go(-0.6)),
    ("to go, b(s)", lambda p: RewardToGo(baseline=p.by_state), lambda p: losses.reward_to_go(p.by_state)),
    ("to go, b(t,s)", lambda p: RewardToGo(baseline=p.by_time), lambda p: losses.reward_to_go(p.by_time)),
    ("GAE, number", lambda p: GAE(0.8, 0.6, True), lambda p: losses.gae(0.8, 0.6, True)),
    ("GAE, V(s)", lambda p: GAE(p.by_state, 0.6), lambda p: losses.gae(p.by_state, 0.6)),
    ("GAE, V(s), bootstrap", lambda p: GAE(p.by_state, 0.3, True), lambda p: losses.gae(p.by_state, 0.3, True)),
    ("GAE, V(t,s), bootstrap", lambda p: GAE(p.by_time, 0.6, True), lambda p: losses.gae(p.by_time, 0.6, True)),
    ("GAE, V(t,s), T rows", lambda p: GAE(p.by_time[:-1], 1.0, True), lambda p: losses.gae(p.by_time[:-1], 1.0, True)),
    ("GAE 0", lambda p: GAE(p.by_state, 0.0), lambda p: losses.gae(p.by_state, 0.0)),
    ("1 step", lambda p: NStep(p.by_state, 1), lambda p: losses.n_step(p.by_state, 1)),
    ("2 steps", lambda p: NStep(p.by_time, 2, True), lambda p: losses.n_step(p.by_time, 2, True)),
    ("3 steps", lambda p: NStep(p.by_time, 3), lambda p: losses.n_step(p.by_time, 3)),
    ("99 steps", lambda p: NStep(p.by_time, 99, True), lambda p: losses.n_step(p.by_time, 99, True)),
    ("leave one out", lambda p: LeaveOneOut(), lambda p: losses.leave_one_out()),
    ("leave one out, per step", lambda p: LeaveOneOut(per_step=True), lambda p: losses.leave_one_out_per_step()),
    ("group mean", lambda p: GroupMean(), lambda p: losses.group_mean()),
    ("group standardised", lambda p: GroupStandardised(ddof=0, eps=0.0), lambda p: losses.group_standardised(0, 0.0)),
    ("group, ddof, eps", lambda p: GroupStandardised(ddof=1, eps=0.2), lambda p: losses.group_standardised(1, 0.2)),
    (
        "group standardised, over batch",
        lambda p: GroupStandardised(ddof=1, eps=0.1, over_batch=True),
        lambda p: losses.group_standardised(1, 0.1, True),
    ),
    (
        "batch standardised, to go",
        lambda p: BatchStandardised(RewardToGo(baseline=p.by_state), ddof=1, eps=0.1),
        lambda p: losses.batch_standardised(losses.reward_to_go(p.by_state), 1, 0.1),
    ),
    (
        "batch standardised, return",
        lambda p: BatchStandardised(TotalReturn(baseline=0.3), ddof=0, eps=0.0),
        lambda p: losses.batch_standardised(losses.total_return(0.3), 0, 0.0),
    ),
    (
        "batch standardised, per trajectory",
        lambda p: BatchStandardised(TotalReturn(), ddof=1, eps=0.05, per_token=False),
        lambda p: losses.batch_standardised(losses.total_return(), 1, 0.05, False),
    ),
    ("in-sample optimal", lambda p: InSampleOptimal(), lambda p: losses.in_sample_optimal()),
    ("action dependent", lambda p: ActionDependent(p.per_pair), lambda p: losses.action_dependent(p.per_pair)),
]

RATIOS = [
    ("on-policy", OnPolicy(), losses.on_policy),
    ("token", TokenRatio(), losses.token),
    ("trajectory", TrajectoryRatio(), losses.trajectory),
    ("clipped", CLIP, losses.clipped(0.2, 0.28)),
    ("clipped, all", ClippedRatio(0.0, 0.0), losses.clipped(0.0, 0.0)),
    ("clipped, lower 1", ClippedRatio(1.0, 0.1), losses.clipped(1.0, 0.1)),
    ("dual clip", ClippedRatio(0.1, 0.1, dual=1.3), losses.clipped(0.1, 0.1, 1.3)),
    ("dual clip below the upper one", ClippedRatio(0.2, 1.0, dual=1.05), losses.clipped(0.2, 1.0, 1.05)),
    ("truncated", TruncatedRatio(1.1), losses.truncated(1.1)),
    ("truncated, whole", TruncatedRatio(0.9, of=TrajectoryRatio()), losses.truncated(0.9, True)),
    ("masked", MaskedRatio(0.8, 1.25), losses.masked(0.8, 1.25)),
    ("masked, low 0", MaskedRatio(0.0, 1.1), losses.masked(0.0, 1.1)),
    ("masked, whole", MaskedRatio(0.7, 1.4, of=TrajectoryRatio()), losses.masked(0.7, 1.4, True)),
    ("self-normalised", SelfNormalisedRatio(), losses.self_normalised),
    ("geometric mean", GeometricMeanRatio(), losses.gspo_token()),
    ("geometric mean, clipped", GeometricMeanRatio(*NARROW), losses.gspo_token(*NARROW)),
]

PENALTIES = [
    (f"{kind}, {place}", kind, place, False) for kind in ("k1", "k2", "k3", "full") for place in ("reward", "loss")
] + [(f"{kind}, loss, corrected", kind, "loss", True) for kind in ("k1", "k2", "k3")]

NORMALISERS = [
    ("per trajectory", PerTrajectory(), losses.per_trajectory),
    ("per length", PerLength(), losses.per_length),
    ("per token", PerToken(), losses.per_token),
    ("constant", Constant(2.5), losses.constant(2.5)),
]


def named(cases):
    return [pytest.param(*case[1:], id=case[0]) for case in cases]


SETTINGS = {  # with and without the discount of the score, for both policies and for gamma = 1 and below
    "tabular, discounted": False,
    "linear": True,
    "tabular, cold": False,
    "linear, warm, discounted": True,
}


@pytest.fixture(params=list(SETTINGS))
def setting(request):
    return PROBLEMS[request.param], SETTINGS[request.param]


@pytest.fixture(params=list(PROBLEMS))
def p(request):
    return PROBLEMS[request.param]


def assert_same(actual, expected, scale):
    assert actual.shape == expected.shape
    error = np.abs(actual - expected).max(initial=0.0)
    assert error <= EXACT * scale, f"off by {error:.3g} at a scale of {scale:.3g}"


def check(p, estimator, objective):
    """The gradient is that of the objective; the other views of an estimate agree with it."""
    args = (p.batch, p.mdp, p.policy, p.theta)
    expected = np.array(losses.gradient(objective, p.data, p.theta))
    w = estimator.weights(*args)
    psi = p.policy.score(p.theta)[p.batch.states, p.batch.actions]
    scale = max(np.abs(w[..., None] * psi).max(), np.abs(expected).max())
    assert scale > 1e-3, "nothing is tested"
    gradient = estimator.gradient(*args)
    assert_same(gradient, expected, scale)
    rows = estimator.per_trajectory(*args)
    assert rows.shape == (len(p.batch), p.policy.n_parameters)
    assert_same(rows.mean(axis=0), gradient, scale)
    assert w.shape == p.batch.states.shape
    assert np.all(w[~p.batch.mask] == 0)
    closed_form = any(penalty.all_actions(estimator.batch(*args)) is not None for penalty in estimator.penalty)
    if not closed_form and not isinstance(estimator.advantage, PerComponent):
        assert_same(np.einsum("nt,ntd->d", w, psi), gradient, scale)
        assert_same(len(p.batch) * np.einsum("nt,ntd->nd", w, psi), rows, len(p.batch) * scale)


@pytest.mark.parametrize(("estimator", "objective"), named(ALGORITHMS))
def test_algorithm(p, estimator, objective):
    check(p, estimator(p), objective(p))


def test_every_algorithm_is_transcribed():
    public = {
        name for name, f in inspect.getmembers(algorithms, inspect.isfunction) if f.__module__ == algorithms.__name__
    }
    assert {name for name in public if not name.startswith("_")} == {case[0].split(",")[0] for case in ALGORITHMS}


def test_published_numbers_are_the_defaults():
    """Schulman 2017, table 3; Shao 2024 (ε only as in PPO); Yu 2025, section 4.1; Zheng 2025, section 5.1."""
    assert algorithms.ppo(0.0).ratio == ClippedRatio(0.2, 0.2)
    assert algorithms.ppo(0.0).advantage.lam == 0.95
    for make in (
        algorithms.grpo,
        algorithms.dr_grpo,
        algorithms.reinforce_plus_plus,
        algorithms.reinforce_plus_plus_baseline,
    ):
        assert make().ratio == ClippedRatio(0.2, 0.2)
    assert algorithms.dapo().ratio == ClippedRatio(0.2, 0.28)
    assert algorithms.gspo().ratio == GeometricMeanRatio(3e-4, 4e-4)
    assert algorithms.a2c(0.0).advantage.lam == 1.0
    for estimator in (
        algorithms.a2c(0.0),
        algorithms.ppo(0.0),
        algorithms.grpo(),
        algorithms.rloo(),
        algorithms.dapo(),
    ):
        assert estimator.penalty == ()
        assert estimator.discounted_score


@pytest.mark.parametrize(("advantage", "transcribed"), named(ADVANTAGES))
def test_advantage(setting, advantage, transcribed):
    p, discounted = setting
    advantage = advantage(p)
    if advantage.from_start and not discounted:
        with pytest.raises(ValueError, match="discounted_score=False has no meaning"):
            Estimator(advantage, discounted_score=False)
        discounted = True
    objective = losses.family(transcribed(p), losses.token, discounted=discounted)
    check(p, Estimator(advantage, ratio=TokenRatio(), discounted_score=discounted), objective)


@pytest.mark.parametrize("name", ["GAE, V(t,s), bootstrap", "group, ddof, eps"])
@pytest.mark.parametrize(("ratio", "surrogate"), named(RATIOS))
def test_ratio(p, ratio, surrogate, name):
    advantage, transcribed = next(case[1:] for case in ADVANTAGES if case[0] == name)
    check(p, Estimator(advantage(p), ratio=ratio), losses.family(transcribed(p), surrogate))


@pytest.mark.parametrize(("kind", "place", "corrected"), named(PENALTIES))
def test_kl_penalty(setting, kind, place, corrected):
    p, discounted = setting
    reference = p.reference
    penalty = KLPenalty(reference, 0.7, kind=kind, place=place, corrected=corrected)
    objective = losses.family(
        losses.reward_to_go(p.by_state),
        losses.token,
        [losses.kl(p.log_reference, 0.7, kind, place, corrected)],
        losses.per_length,
        discounted,
    )
    estimator = functools.partial(
        Estimator,
        RewardToGo(baseline=p.by_state),
        ratio=TokenRatio(),
        normaliser=PerLength(),
        discounted_score=discounted,
    )
    check(p, estimator(penalty=penalty), objective)
    check(p, estimator(penalty=(penalty,)), objective)


@pytest.mark.parametrize(("kind", "place", "corrected"), named(PENALTIES))
def test_kl_penalty_to_parameters_of_a_reference(p, kind, place, corrected):
    theta = np.cos(np.arange(p.policy.n_parameters))
    log_reference = [[x.real for x in row] for row in losses.log_policy(theta, p.data.features, p.data.temperature)]
    penalty = KLPenalty(theta, 0.7, kind=kind, place=place, corrected=corrected)
    objective = losses.family(losses.total_return(), penalties=[losses.kl(log_reference, 0.7, kind, place, corrected)])
    check(p, Estimator(TotalReturn(), penalty=penalty), objective)


@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("place", ["reward", "loss"])
def test_entropy(setting, place, sampled):
    p, discounted = setting
    objective = losses.family(
        losses.gae(p.by_time, 0.5),
        losses.clipped(0.2, 0.28),
        [losses.entropy(0.6, place, sampled)],
        discounted=discounted,
    )
    bonus = EntropyBonus(0.6, place=place, sampled=sampled)
    if place == "reward":  # the transcribed critic sees the rewards it is given
        objective = losses.family(
            losses.reward_to_go(p.by_time),
            losses.clipped(0.2, 0.28),
            [losses.entropy(0.6, place, sampled)],
            discounted=discounted,
        )
        advantage = RewardToGo(baseline=p.by_time)
    else:
        advantage = GAE(p.by_time, 0.5)
    check(p, Estimator(advantage, ratio=CLIP, penalty=bonus, discounted_score=discounted), objective)


def test_penalties_add_up(p):
    terms = [
        losses.kl(p.log_reference, 0.3, "k1", "reward"),
        losses.kl(p.log_reference, 0.2, "full", "loss"),
        losses.entropy(0.1, "loss", False),
        losses.entropy(0.4, "reward", True),
    ]
    penalties = (
        KLPenalty(p.reference, 0.3),
        KLPenalty(p.reference, 0.2, kind="full", place="loss"),
        EntropyBonus(0.1, place="loss", sampled=False),
        EntropyBonus(0.4),
    )
    check(
        p,
        Estimator(GAE(p.by_state, 0.7, True), penalty=penalties, ratio=TokenRatio(), normaliser=PerToken()),
        losses.family(losses.gae(p.by_state, 0.7, True), losses.token, terms, losses.per_token),
    )


@pytest.mark.parametrize(("normaliser", "transcribed"), named(NORMALISERS))
@pytest.mark.parametrize("name", ["total return", "3 steps"])
def test_normaliser(p, normaliser, transcribed, name):
    advantage, written = next(case[1:] for case in ADVANTAGES if case[0] == name)
    bonus = EntropyBonus(0.2, place="loss", sampled=False)
    check(
        p,
        Estimator(advantage(p), penalty=bonus, normaliser=normaliser),
        losses.family(written(p), penalties=[losses.entropy(0.2, "loss", False)], normaliser=transcribed),
    )


@pytest.mark.parametrize("baseline", [0.0, 0.4, "by_state", "by_time"])
def test_per_decision_return(p, baseline):
    b = getattr(p, baseline) if isinstance(baseline, str) else baseline
    check(p, Estimator(RewardToGo(baseline=b), ratio=PerDecisionRatio()), losses.per_decision_return(b))


@pytest.mark.parametrize(("lam", "bootstrap"), [(1.0, False), (0.6, True), (0.0, True)])
@pytest.mark.parametrize("past", [True, False])
def test_per_decision(setting, past, lam, bootstrap):
    p, discounted = setting
    check(
        p,
        Estimator(GAE(p.by_time, lam, bootstrap), ratio=PerDecisionRatio(past=past), discounted_score=discounted),
        losses.per_decision(p.by_time, lam, past, bootstrap, discounted),
    )


@pytest.mark.parametrize(("lam", "bootstrap"), [(1.0, False), (0.6, True)])
@pytest.mark.parametrize(("rho_limit", "c_limit"), [(1.0, 1.0), (1.2, 0.9), (0.8, 1.5), (np.inf, 1.0), (1.0, np.inf)])
def test_v_trace(setting, rho_limit, c_limit, lam, bootstrap):
    p, discounted = setting
    check(
        p,
        Estimator(GAE(p.by_state, lam, bootstrap), ratio=VTrace(rho_limit, c_limit), discounted_score=discounted),
        losses.v_trace(p.by_state, rho_limit, c_limit, lam, bootstrap, discounted),
    )


def test_v_trace_of_rewards_to_go_has_a_critic_of_zero_and_a_baseline(p):
    def objective(log_pi, log_pi0, data):
        total = losses.v_trace(0.0, 1.1, 0.9)(log_pi, log_pi0, data)
        for e in data.episodes:
            for t in range(len(e)):
                rho = min(losses.ratio(log_pi0, e, t).real, 1.1)
                b = rho * losses.lookup(p.by_time, t, e.states[t])
                total = total - data.gamma**t * b * losses.log_prob(log_pi, e, t) / len(data.episodes)
        return total

    check(p, Estimator(RewardToGo(baseline=p.by_time), ratio=VTrace(1.1, 0.9)), objective)


def test_the_published_v_trace_mixes_nothing_at_lambda_below_one():
    """Remark 2 of the paper has λ in c alone; here the first step carries it too, so that on-policy this is GAE(λ)."""
    p = PROBLEMS["tabular, discounted"]
    critic, lam = p.by_state, 0.6

    def literal(log_pi, log_pi0, data):  # λ in c_i, but r + γ v_{s+1} − V unmixed
        one = losses.v_trace(critic, 1.0, 1.0, lam)
        mixed, pure = one(log_pi, log_pi0, data), losses.v_trace(critic, 1.0, 1.0, 0.0)(log_pi, log_pi0, data)
        return pure + (mixed - pure) / lam

    expected = np.array(losses.gradient(literal, p.data, p.theta))
    actual = Estimator(GAE(critic, lam), ratio=VTrace()).gradient(p.batch, p.mdp, p.policy, p.theta)
    assert np.abs(actual - expected).max() > 0.01


@pytest.mark.parametrize(
    ("of", "transcribed", "normaliser", "factor"),
    [
        (TotalReturn(0.2), losses.total_return(0.2), PerLength(), losses.per_length),
        (RewardToGo(), losses.reward_to_go(), PerTrajectory(), losses.per_trajectory),
    ],
)
@pytest.mark.parametrize("by_state", [True, False])
def test_per_component(setting, of, transcribed, by_state, normaliser, factor):
    p, discounted = setting
    discounted = discounted or of.from_start
    D = p.policy.n_parameters
    b = np.sin(np.arange(S * D)).reshape(S, D) if by_state else np.sin(np.arange(D))

    def gradient_of(i):
        own = [row[i] for row in b.tolist()] if by_state else [float(b[i])] * S

        def advantage(data, rewards, log_pi0):
            rows = transcribed(data, rewards, log_pi0)
            return [
                [a - own[s] for a, s in zip(row, e.states, strict=True)]
                for row, e in zip(rows, data.episodes, strict=True)
            ]

        advantage.from_start = of.from_start
        return losses.gradient(losses.family(advantage, normaliser=factor, discounted=discounted), p.data, p.theta)[i]

    estimator = Estimator(PerComponent(of, b), normaliser=normaliser, discounted_score=discounted)
    args = (p.batch, p.mdp, p.policy, p.theta)
    expected = np.array([gradient_of(i) for i in range(D)])
    scale = np.abs(expected).max() + np.abs(estimator.weights(*args)).max()
    assert_same(estimator.gradient(*args), expected, scale)
    assert_same(estimator.per_trajectory(*args).mean(axis=0), expected, scale)


def test_the_published_reinforce_plus_plus_penalises_the_old_policy():
    """Hu et al. put log π_old/π_ref into the reward; the estimator puts log π/π_ref: the same on-policy, and only there."""
    p = PROBLEMS["linear, warm, discounted"]
    options = {"reference": p.log_reference, "beta": 0.4}
    estimator = algorithms.reinforce_plus_plus(reference=p.reference, beta=0.4)
    published = losses.reinforce_plus_plus(0.2, 1e-8, old=True, **options)
    off = np.array(losses.gradient(published, p.data, p.theta))
    assert np.abs(estimator.gradient(p.batch, p.mdp, p.policy, p.theta) - off).max() > 1e-3
    log_pi = p.policy.log_probabilities(p.theta)[p.batch.states, p.batch.actions]
    batch = changed(p.batch, log_probabilities=np.where(p.batch.mask, log_pi, 0.0))
    on = np.array(losses.gradient(published, p.data._replace(episodes=losses.episodes_of(batch)), p.theta))
    assert_same(estimator.gradient(batch, p.mdp, p.policy, p.theta), on, np.abs(on).max() * 10)


def test_padding_is_never_read(p):
    """Whatever is written after the end of an episode changes no bit of an estimate."""
    dead = ~p.batch.mask
    garbage = changed(
        p.batch,
        states=np.where(dead, S - 1, p.batch.states),
        actions=np.where(dead, A - 1, p.batch.actions),
        rewards=np.where(dead, np.nan, p.batch.rewards),
        log_probabilities=np.where(dead, np.nan, p.batch.log_probabilities),
    )
    assert dead.any()
    cases = [estimator(p) for _, estimator, _ in ALGORITHMS]
    cases += [Estimator(advantage(p), normaliser=PerToken()) for _, advantage, _ in ADVANTAGES]
    cases += [
        Estimator(RewardToGo(baseline=p.by_time), ratio=ratio, penalty=EntropyBonus(0.3, sampled=False))
        for _, ratio, _ in RATIOS
    ]
    cases += [Estimator(GAE(p.by_time, 0.5), ratio=ratio) for ratio in (VTrace(), PerDecisionRatio())]
    cases += [
        Estimator(RewardToGo(), penalty=KLPenalty(p.reference, 0.3, kind=kind, place=place, corrected=corrected))
        for _, kind, place, corrected in PENALTIES
    ]
    for estimator in cases:
        clean = estimator.weights(p.batch, p.mdp, p.policy, p.theta)
        assert np.array_equal(estimator.weights(garbage, p.mdp, p.policy, p.theta), clean), estimator
        assert np.all(clean[dead] == 0), estimator
        assert np.array_equal(
            estimator.gradient(garbage, p.mdp, p.policy, p.theta), estimator.gradient(p.batch, p.mdp, p.policy, p.theta)
        ), estimator


def test_fitted_baselines_by_loops(p):
    rewards = [e.rewards for e in p.data.episodes]
    sums, visits = [0.0] * S, [0] * S
    for e, r in zip(p.data.episodes, rewards, strict=True):
        for t, s in enumerate(e.states):
            sums[s] += losses.return_from(r, p.mdp.gamma, t)
            visits[s] += 1
    by_state = np.array([x / max(n, 1) for x, n in zip(sums, visits, strict=True)] + [0.0])
    assert_same(estimators.fit_state_baseline(p.batch, p.mdp.gamma, S + 1), by_state, 10.0)

    log_pi0 = [[x.real for x in row] for row in losses.log_policy(p.theta, p.data.features, p.data.temperature)]
    z = np.array([losses.score_sum(log_pi0, e, p.data) for e in p.data.episodes])
    R = np.array([losses.whole_return(r, p.mdp.gamma) for r in rewards])
    b = (z**2).sum(axis=1) @ R / (z**2).sum()
    fitted = estimators.fit_optimal_baseline(p.batch, p.policy, p.theta, p.mdp.gamma)
    assert isinstance(fitted, float)
    assert abs(fitted - b) <= EXACT * np.abs(R).max() * 10
    each = estimators.fit_optimal_baseline(p.batch, p.policy, p.theta, p.mdp.gamma, per_component=True)
    visited = (z**2).sum(axis=0) > 0
    expected = np.zeros(len(visited))
    expected[visited] = (z**2 * R[:, None]).sum(axis=0)[visited] / (z**2).sum(axis=0)[visited]
    assert_same(each, expected, np.abs(R).max() * 10)
    whole = Estimator(InSampleOptimal()).weights(p.batch, p.mdp, p.policy, p.theta)
    assert_same(whole, Estimator(TotalReturn(fitted)).weights(p.batch, p.mdp, p.policy, p.theta), np.abs(R).max())


def test_a_state_never_visited_has_baseline_zero_and_a_score_never_seen_too():
    p = PROBLEMS["tabular, discounted"]
    one = p.batch.take(np.array([3]))  # length zero
    assert np.array_equal(estimators.fit_state_baseline(one, 0.9, S), np.zeros(S))
    assert estimators.fit_optimal_baseline(one, p.policy, p.theta, 0.9) == 0.0
    each = estimators.fit_optimal_baseline(one, p.policy, p.theta, 0.9, per_component=True)
    assert np.array_equal(each, np.zeros(9))
    assert np.array_equal(Estimator(InSampleOptimal()).gradient(one, p.mdp, p.policy, p.theta), np.zeros(9))


def test_rows_are_contracted_in_chunks_without_changing_them(p, monkeypatch):
    from reinforce_np.estimators import each as module
    from reinforce_np.estimators import ways

    estimator = Estimator(
        PerComponent(RewardToGo(), p.policy.score(p.theta).mean(axis=1)),
        penalty=EntropyBonus(0.2, place="loss", sampled=False),
    )
    args = (p.batch, p.mdp, p.policy, p.theta)
    whole = estimator.per_trajectory(*args)
    for cells in (1, 2 * ways.row_width(S * A), 3 * ways.row_width(S * A) + 1):
        monkeypatch.setattr(module, "CELLS", cells)
        assert_same(estimator.per_trajectory(*args), whole, np.abs(whole).max())
