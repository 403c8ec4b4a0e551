"""Assertions fail with everything that is known, pass what is right, and never pass what proves nothing."""

import traceback

import hypothesis
import numpy as np
import pytest

from reinforce_np import (
    Constant,
    Convicted,
    Discounted,
    EntropyRegularised,
    Estimator,
    GroupMean,
    KLPenalty,
    KLRegularised,
    LinearSoftmax,
    Problem,
    RewardToGo,
    TabularSoftmax,
    Undiscounted,
    algorithms,
    assert_gradient,
    assert_proportional,
    assert_unbiased,
    assert_variance_at_most,
    examples,
    numpy_loss,
)
from reinforce_np.exact.verdicts import one_direction
from reinforce_np.referee import assertions
from reinforce_np.strategies import problems
from reinforce_np.traits import GROUPS

MDP, POLICY, THETA = examples.referee(horizon=2), TabularSoftmax(3, 3), np.linspace(-1, 1, 9)
PROBLEM = Problem(MDP, POLICY, THETA, reference=np.zeros(9), beta=0.3)
PAIR = Problem(examples.bandit(means=[0.0, 1.0, 5.0]), TabularSoftmax(1, 3), np.array([0.0, 0.5, -0.5]), group_size=2)
REINFORCE = algorithms.reinforce()
DROPPED = Estimator(RewardToGo(), discounted_score=False)


def message_of(assertion, *args, **options):
    with pytest.raises(AssertionError) as failure:
        assertion(*args, **options)
    return str(failure.value)


def whole_return(log_probs, batch):
    return -((log_probs * batch.mask).sum(1) * (batch.rewards * batch.mask).sum(1)).mean()


def test_what_is_right_passes_and_returns_its_verdict():
    assert assert_unbiased(REINFORCE, PROBLEM).kind == "unbiased"
    assert assert_unbiased(REINFORCE, MDP, POLICY, THETA).kind == "unbiased"
    assert assert_unbiased(numpy_loss(whole_return), PROBLEM, objective=Undiscounted()).moments.n_batches == 78
    assert assert_unbiased(algorithms.rloo(), PAIR).kind == "unbiased"
    assert assert_proportional(REINFORCE, PROBLEM).kind == "unbiased"
    halved = Estimator(RewardToGo(), normaliser=Constant(2))
    assert assert_proportional(halved, PROBLEM).factor == pytest.approx(0.5)
    assert assert_proportional(halved, PROBLEM, factor=0.5).kind == "proportional"
    assert assert_proportional(algorithms.dr_grpo(), PAIR, group_size=4, factor=0.75).kind == "proportional"
    backwards = numpy_loss(whole_return, maximise=True)
    assert assert_proportional(backwards, PROBLEM, objective=Undiscounted(), factor=-1).factor == pytest.approx(-1)


def test_the_message_of_what_is_biased():
    message = message_of(assert_unbiased, DROPPED, PROBLEM)
    lines = message.splitlines()
    assert lines[0].startswith("biased for the gradient of Discounted: relative bias 0.0554, cosine 0.9999")
    assert lines[1] == "worst components:"
    assert lines[2].startswith("  theta[8] (state 2, action 2): mean 0.341132, gradient 0.320943, off by +0.0202")
    assert "trajectories that carry the bias:\n  of bias  of variance  probability  batch\n" in message
    assert "s0 a2 r-1.5, s2 a2 r3" in message
    assert lines[-1] == f"problem: {PROBLEM!r}"
    assert "likely cause: its mean is exactly that of gamma_t_dropped" in message


def test_the_message_names_the_objective_that_it_is_the_gradient_of():
    message = message_of(assert_unbiased, numpy_loss(whole_return), PROBLEM)
    assert "It is unbiased for the gradient of another objective, Undiscounted()." in message
    penalised = Estimator(RewardToGo(), penalty=KLPenalty(np.zeros(9), 0.3))
    assert "another objective, KLRegularised(" in message_of(assert_unbiased, penalised, PROBLEM)
    assert_unbiased(penalised, PROBLEM, objective=lambda p: KLRegularised(p.reference, p.beta))
    message = message_of(assert_unbiased, penalised, PROBLEM, objective=EntropyRegularised(0.2))
    assert message.startswith("biased for the gradient of EntropyRegularised")


def test_the_message_of_what_is_not_proportional():
    message = message_of(assert_proportional, algorithms.grpo(), PROBLEM, group_size=2)
    assert "It is no positive multiple of the gradient; the nearest is 0.15357 times it." in message
    assert ", 0.15357 x gradient " in message
    assert "batches that carry the bias:" in message and "s2 a1 r1, end; s2 a2 r3, end" in message
    message = message_of(assert_proportional, algorithms.dr_grpo(), PAIR, factor=0.6)
    assert message.startswith("proportional to the gradient of Discounted with factor 0.5")
    assert "It is not 0.6 times the gradient." in message and "0.6 x gradient" in message
    message = message_of(assert_proportional, numpy_loss(whole_return, maximise=True), PAIR)
    assert message.startswith("proportional to the gradient of Discounted with factor -1")
    assert "its mean points away from the gradient" in message.replace("\n", " ")


def test_a_sum_that_is_not_finite_is_no_pass():
    def standardised(log_probs, batch):
        R = batch.rewards.sum(1)
        return -(log_probs.sum(1) * (R - R.mean()) / R.std()).mean()

    for assertion in (assert_unbiased, assert_proportional):
        message = message_of(assertion, numpy_loss(standardised), PAIR)
        assert message.startswith(
            "undefined for the gradient of Discounted: standardised returned nan for component 0 of"
        )
    assert "returned nan" in message_of(assert_variance_at_most, numpy_loss(standardised), algorithms.rloo(), PAIR)


def test_what_proves_nothing_is_refused():
    nothing = PROBLEM.replace(mdp=MDP.replace(reward=0 * MDP.reward))
    for assertion in (assert_unbiased, assert_proportional):
        with pytest.raises(ValueError, match=r"the gradient proves nothing: .*Choose another theta"):
            assertion(REINFORCE, nothing)
    with pytest.raises(ValueError, match="neither estimator varies"):
        assert_variance_at_most(REINFORCE, DROPPED, nothing)
    two_actions = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2), np.zeros(2)
    with pytest.raises(ValueError, match="every estimator is proportional here"):
        assert_proportional(algorithms.grpo(), *two_actions, group_size=2)
    assert assert_proportional(algorithms.dr_grpo(), *two_actions, group_size=2, factor=0.5).kind == "proportional"
    message = message_of(
        assert_unbiased, numpy_loss(lambda *given: whole_return(*given) * 3), *two_actions, group_size=3
    )
    assert "(relative bias 2); so is every estimator here, where all scores lie on one line\n" in message
    assert "likely cause: its mean is here the gradient times the size of the batch" in message
    with pytest.raises(ValueError, match=r"factor=0\.0 is no direction"):
        assert_proportional(REINFORCE, PROBLEM, factor=0)


def test_an_example_on_one_line_is_rejected_in_a_test_by_hypothesis():
    seen = []

    @hypothesis.settings(max_examples=30, deadline=None, database=None, derandomize=True)
    @hypothesis.given(problems(GROUPS, gammas=[1.0]))
    def proportional(estimator, problem):
        assert_proportional(estimator, problem)
        seen.append(one_direction(problem))

    proportional(algorithms.dr_grpo())
    assert seen and not any(seen)
    with pytest.raises(Convicted, match="no positive multiple"):
        proportional(algorithms.grpo())


def test_unbiased_but_worse():
    """The rewards of before are no mistake where γ = 1, and only add variance."""
    undiscounted = PROBLEM.replace(mdp=MDP.replace(gamma=1.0))
    whole = algorithms.reinforce(reward_to_go=False)
    assert_unbiased(whole, undiscounted)
    assert assert_variance_at_most(REINFORCE, whole, undiscounted).kind == "unbiased"
    assert_variance_at_most(numpy_loss(whole_return), whole, undiscounted)  # the same, by another route
    assert_variance_at_most(whole, REINFORCE, undiscounted, ratio=2.0)
    message = message_of(assert_variance_at_most, whole, REINFORCE, undiscounted)
    assert message.startswith("the total variance is 1.34898 times")
    assert "times that of the other estimator, above 1: " in message
    assert "itself, it is unbiased for the gradient of Discounted" in message
    assert "  theta[5] (state 1, action 2): variance " in message
    assert "trajectories that carry the variance:\n  of variance  probability  batch\n" in message
    message = message_of(assert_variance_at_most, whole, lambda t, theta: 0 * theta, undiscounted)
    assert message.startswith("the total variance is infinitely many times")


def test_single_precision_is_no_difference_of_variances():
    def single(trajectories, theta):
        return REINFORCE.gradient(trajectories, MDP, POLICY, theta).astype(np.float32)

    assert_unbiased(single, PROBLEM)
    assert_variance_at_most(single, REINFORCE, PROBLEM)
    assert_variance_at_most(REINFORCE, single, PROBLEM)


def test_components_that_are_rounding_are_not_named():
    def forgetful(log_probs, batch):
        return -(log_probs.sum(1) * batch.rewards.sum(1)).mean()

    message = message_of(assert_unbiased, numpy_loss(forgetful), PROBLEM, objective=Undiscounted())
    assert message.count("  theta[") == 3 and message.count("(state 0, action ") == 3


def test_what_cannot_be_listed_says_so():
    """The verdict comes by recursion; the trajectories are too many."""
    walk, policy = examples.gridworld_4x4().replace(horizon=20, gamma=0.9), TabularSoftmax(16, 4)
    message = message_of(assert_unbiased, DROPPED, walk, policy, np.linspace(-1, 1, 64))
    assert "what carries the bias is not listed: enumeration refused" in message


def test_features_have_no_state_and_action():
    policy = LinearSoftmax(np.random.default_rng(0).normal(size=(3, 3, 4)))
    message = message_of(assert_unbiased, DROPPED, MDP, policy, np.ones(4))
    assert "\n  theta[" in message and "(state" not in message.split("trajectories")[0]


def test_the_likely_cause_is_asked_for(monkeypatch):
    asked = []

    def cause(verdict, estimator, problem):
        asked.append((verdict.kind, estimator, problem))
        return "the score carries no discount"

    monkeypatch.setattr(assertions, "likely_cause", cause)
    assert "\nlikely cause: the score carries no discount\nproblem: " in message_of(assert_unbiased, DROPPED, PROBLEM)
    assert asked == [("biased", DROPPED, PROBLEM)]
    assert "likely cause" in message_of(assert_proportional, Estimator(GroupMean()), PAIR, factor=1)


def test_assert_gradient():
    x = np.array([0.5, -1.0, 2.0])
    assert assert_gradient(lambda x: np.sum(x**3), lambda x: 3 * x**2, x).passed
    message = message_of(assert_gradient, lambda x: np.sum(x**3), -3 * x**2, x)
    assert message.startswith("gradient WRONG in 3 of 3 components: the sign is wrong")

    def J(points):
        return np.exp(points).sum(axis=-1)

    assert assert_gradient(J, np.exp(x), x, vectorised=True, relative=0.0)
    assert "a constant factor is wrong" in message_of(
        assert_gradient, J, 1.01 * np.exp(x), x, vectorised=True, relative=1e-3
    )
    assert assert_gradient(J, 1.01 * np.exp(x), x, vectorised=True, relative=0.02)


def test_pytest_shows_the_test_and_not_the_assertion():
    """The frames of the assertions are hidden."""
    for assertion, args in (
        (assert_unbiased, (DROPPED, PROBLEM)),
        (assert_proportional, (algorithms.grpo(), PAIR)),
        (assert_variance_at_most, (REINFORCE, lambda t, theta: 0 * theta, PROBLEM)),
        (assert_gradient, (np.sum, np.zeros(2), np.ones(2))),
    ):
        with pytest.raises(AssertionError) as failure:
            assertion(*args)
        frames = [frame for frame, _ in traceback.walk_tb(failure.value.__traceback__)]
        inside = [frame for frame in frames if frame.f_code.co_filename == assertions.__file__]
        assert inside and all(frame.f_locals["__tracebackhide__"] for frame in inside)


def test_options_reach_the_verdict():
    behaviour = POLICY.probabilities(0 * THETA)
    message_of(assert_unbiased, REINFORCE, PROBLEM, behaviour=behaviour)
    assert assert_unbiased(algorithms.rloo(), PROBLEM, group_size=2).moments.n_batches is None
    f = numpy_loss(whole_return)
    listed = {flag: assert_unbiased(f, PAIR, exchangeable=flag).moments.n_batches for flag in (False, True)}
    assert listed == {False: 9, True: 6}

    def widened(trajectories, theta):
        return REINFORCE.gradient(trajectories, MDP, POLICY, theta).astype(np.float32).astype(np.float64)

    assert "precision=np.float32" in message_of(assert_unbiased, widened, PROBLEM, objective=Discounted())
    assert_unbiased(widened, PROBLEM, precision=np.float32)
