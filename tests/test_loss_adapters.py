"""Losses as estimators: the weight on each score is minus the derivative of the loss, in every framework."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from tolerances import assert_exact

from reinforce_np import (
    EntropyBonus,
    EntropyRegularised,
    Estimator,
    KLPenalty,
    KLRegularised,
    LinearSoftmax,
    Problem,
    RewardToGo,
    TabularSoftmax,
    TokenRatio,
    TotalReturn,
    TrajectoryRatio,
    TruncatedRatio,
    Undiscounted,
    algorithms,
    enumerate_trajectories,
    examples,
    jax_loss,
    judge,
    moments,
    numpy_loss,
    torch_loss,
)
from reinforce_np.referee import losses

MDP, POLICY, THETA = examples.referee(horizon=2), TabularSoftmax(3, 3, temperature=0.7), np.linspace(-1, 1, 9)
REFERENCE = np.cos(np.arange(9.0))
PROBLEM = Problem(MDP, POLICY, THETA, reference=REFERENCE, beta=0.4)
BEHAVIOUR = POLICY.probabilities(0.5 * THETA)
BANDIT = Problem(examples.bandit(means=[0.0, 1.0, 5.0]), TabularSoftmax(1, 3), np.array([0.0, 0.5, -0.5]))


def whole_return(log_probs, batch):
    returns = (batch.rewards * batch.mask).sum(1)
    return -((log_probs * batch.mask).sum(1) * returns).mean()


def mean_square(log_probs, batch):
    """A loss that differs from step to step, on any framework."""
    return ((log_probs + batch.rewards) ** 2 * batch.mask).sum()


def same_moments(f, estimator, problem, **options):
    ours, theirs = moments(f, problem, **options), moments(estimator, problem, covariance=True, **options)
    assert_exact(ours.mean, theirs.mean)
    assert_exact(ours.covariance, theirs.covariance)


def test_losses_whose_weights_are_known():
    """Against the family: the whole return, ratios, penalties in the loss, the sign, and other policies."""
    undiscounted = PROBLEM.replace(mdp=MDP.replace(gamma=1.0))
    same_moments(numpy_loss(whole_return), Estimator(TotalReturn()), undiscounted)
    assert judge(numpy_loss(whole_return), PROBLEM, objective=Undiscounted()).kind == "unbiased"
    backwards = judge(numpy_loss(whole_return, maximise=True), undiscounted)
    assert (backwards.kind, backwards.factor) == ("proportional", pytest.approx(-1))

    def ratio(log_probs, batch, problem):
        G = batch.rewards @ np.array([[1.0, 0.0], [problem.gamma, 1.0]]) * problem.gamma ** np.arange(2)
        return -(np.exp(log_probs - batch.log_probabilities) * G * batch.mask).sum(1).mean()

    per_token = Estimator(RewardToGo(), ratio=TokenRatio())
    same_moments(numpy_loss(ratio), per_token, PROBLEM, behaviour=BEHAVIOUR)

    def product(log_probs, batch, problem):
        discounted = (batch.rewards * batch.mask * problem.gamma ** np.arange(2)).sum(1)
        return -(np.exp(((log_probs - batch.log_probabilities) * batch.mask).sum(1)) * discounted).mean()

    of_trajectory = Estimator(TotalReturn(), ratio=TrajectoryRatio())
    same_moments(numpy_loss(product), of_trajectory, PROBLEM, behaviour=BEHAVIOUR)

    linear = LinearSoftmax(np.random.default_rng(0).normal(size=(3, 3, 4)), temperature=1.3)
    same_moments(numpy_loss(whole_return), Estimator(TotalReturn()), Problem(undiscounted.mdp, linear, np.ones(4)))


def test_losses_of_all_actions():
    """An entropy and a full KL divergence differentiate what was not taken, too."""

    def penalised(sign, of_table):
        def loss(table, batch, problem):
            taken = np.take_along_axis(table, batch.actions[..., None], 2)[..., 0]
            G = batch.rewards @ np.array([[1.0, 0.0], [problem.gamma, 1.0]])
            discount = batch.mask * problem.gamma ** np.arange(2)
            p = np.exp(table)
            return -(discount * (taken * G + sign * (p * (table - of_table[batch.states])).sum(2))).sum(1).mean()

        return numpy_loss(loss, all_actions=True)

    table = POLICY.log_probabilities(REFERENCE)
    for sign, of_table, penalty in (
        (-0.4, np.zeros((3, 3)), EntropyBonus(0.4, "loss", False)),
        (-0.4, table, KLPenalty(REFERENCE, 0.4, kind="full", place="loss")),
    ):
        same_moments(penalised(sign, of_table), Estimator(RewardToGo(), penalty=penalty), PROBLEM)
    bandit = BANDIT.replace(beta=0.4)  # with one step nothing is missing: the loss is the objective

    def regularised(table, batch):
        taken = np.take_along_axis(table, batch.actions[..., None], 2)[..., 0]
        return -(taken * batch.rewards - 0.4 * (np.exp(table) * table).sum(2)).sum(1).mean()

    right = judge(numpy_loss(regularised, all_actions=True), bandit, objective=EntropyRegularised(0.4))
    assert right.kind == "unbiased"
    masked = TabularSoftmax(1, 3, mask=np.array([[True, True, False]]))

    def first_two(table, batch):
        return regularised(table[..., :2], batch)

    assert (
        judge(
            numpy_loss(first_two, all_actions=True), bandit.replace(policy=masked), objective=EntropyRegularised(0.4)
        ).kind
        == "unbiased"
    )


def test_padding_is_a_token_unless_it_is_masked():
    def forgetful(log_probs, batch):
        return -(log_probs.sum(1) * batch.rewards.sum(1)).mean()

    verdict = judge(numpy_loss(forgetful), PROBLEM, objective=Undiscounted())
    assert verdict.kind == "biased"
    wrong = np.abs(verdict.bias) > verdict.rounding
    assert wrong.tolist() == [True] * 3 + [False] * 6  # the score of action 0 in state 0

    def what_it_sees_there(log_probs, batch):
        assert np.all(np.abs(log_probs[~batch.mask].real - POLICY.log_probabilities(THETA)[0, 0]) < 1e-3)
        return log_probs.sum()

    judge(numpy_loss(what_it_sees_there), PROBLEM)
    trajectories = enumerate_trajectories(MDP, POLICY, THETA).trajectories
    garbage = dataclasses.replace(trajectories, states=np.where(trajectories.mask, trajectories.states, 99))
    f = numpy_loss(forgetful)
    assert np.any(garbage.states == 99)
    assert_exact(f(garbage, THETA, PROBLEM), f(trajectories, THETA, PROBLEM))


def clipped(log_probs, batch):
    ratio = np.exp(log_probs - batch.log_probabilities)
    return -(np.minimum(ratio * batch.rewards, np.clip(ratio, 0.8, 1.2) * batch.rewards) * batch.mask).sum(1).mean()


def test_kinks_are_seen_by_their_real_parts():
    same_moments(
        numpy_loss(clipped), algorithms.ppo(np.zeros(1), lam=1.0), BANDIT, behaviour=np.array([[0.5, 0.3, 0.2]])
    )
    assert judge(numpy_loss(clipped), BANDIT).kind == "unbiased"


def not_analytic():
    yield "abs", lambda log_probs, batch: np.abs(log_probs).sum()
    yield "std", lambda log_probs, batch: log_probs.std()
    yield "real", lambda log_probs, batch: (log_probs.real**2).sum() + (log_probs * batch.rewards).sum()
    yield "a small abs", lambda log_probs, batch: log_probs.sum() + 1e-4 * np.abs(log_probs).sum()


@pytest.mark.parametrize(("name", "loss"), list(not_analytic()))
def test_what_is_not_analytic_is_refused(name, loss):
    with pytest.raises(ValueError, match="not analytic, or has a kink, at the batch of s0 a0 r1"):
        judge(numpy_loss(loss), PROBLEM)
    verdict = judge(numpy_loss(loss, differences=True), PROBLEM.replace(mdp=MDP.replace(horizon=1)))
    assert verdict.moments.precision == np.finfo(np.float32).eps


@pytest.mark.parametrize("differences", [False, True])
def test_what_is_random_is_refused_as_that(differences):
    rng, calls = np.random.default_rng(0), itertools.count()

    def dropout(log_probs, batch):
        return (log_probs * batch.rewards * rng.integers(2, size=log_probs.shape)).sum()

    def warming_up(log_probs, batch):
        return (log_probs * batch.rewards).sum() * (1 + next(calls))

    for loss in (dropout, warming_up):
        with pytest.raises(ValueError, match=f"{loss.__name__} returned another loss when asked .* at the batch of s0"):
            judge(numpy_loss(loss, differences=differences), PROBLEM)


def test_differences_agree_with_the_complex_step_to_single_precision():
    for loss in (whole_return, clipped, mean_square):
        exact, near = (moments(numpy_loss(loss, differences=d), BANDIT) for d in (False, True))
        assert np.abs(near.mean - exact.mean).max() <= 1e-6 * np.abs(exact.mean).max()
    assert judge(numpy_loss(whole_return, differences=True), BANDIT).kind == "unbiased"

    def jump(log_probs, batch):
        return (log_probs > batch.log_probabilities).sum()

    with pytest.raises(ValueError, match="too rough at the batch of s0"):
        judge(numpy_loss(jump, differences=True), BANDIT)


def test_losses_that_are_none_are_refused():
    def each(log_probs, batch):
        return log_probs

    with pytest.raises(TypeError, match=r"each returned shape \(1, 2\); a loss must be one number"):
        judge(numpy_loss(each), PROBLEM)
    with pytest.raises(TypeError, match="returned tuple; a loss must be one number"):
        judge(numpy_loss(lambda log_probs, batch: None or ()), PROBLEM)
    with pytest.raises(TypeError, match=r"cannot be evaluated at complex log-probabilities: .*differences=True"):
        judge(numpy_loss(lambda log_probs, batch: math.exp(log_probs[0, 0])), PROBLEM)
    with pytest.raises(TypeError, match=r"^unsupported operand"):  # has nothing to do with complex numbers
        judge(numpy_loss(lambda log_probs, batch: log_probs.sum() + None), PROBLEM)
    with pytest.raises(ValueError, match="reference=None: there is none here"):
        judge(
            numpy_loss(lambda x, batch, problem: problem.policy.log_probabilities_of("reference", None).sum()), PROBLEM
        )
    for wrong in (3, lambda log_probs: 0.0, lambda a, b, c, d: 0.0):
        with pytest.raises(TypeError, match="pass a function loss"):
            numpy_loss(wrong)
    with pytest.raises(TypeError, match="maximise"):
        numpy_loss(each, maximise=1)
    undefined = judge(numpy_loss(lambda log_probs, batch: (log_probs / batch.rewards[0, 0]).sum()), BANDIT)
    assert undefined.kind == "undefined" and "for component 0 of the batch of s0 a0 r0, end" in undefined.reason
    for precision, said in ((np.int64, "int64"), ("torch.int64", "int64"), ("single bits", "single bits")):
        with pytest.raises(ValueError, match=f"precision={said} is no type of tensor"):
            torch_loss(whole_return, precision=precision)
    for precision in ("torch.float32", np.float32, "float32", "f4"):  # the first is what PyTorch's own prints
        torch_loss(whole_return, precision=precision)


def test_a_gradient_is_stopped_by_the_probabilities_of_the_policy():
    """min(sg(π/μ), cap) A log π (CISPO's form) off-policy, where those of the behaviour are others: a truncated ratio on the score."""
    behaviour, cap = np.array([[0.2, 0.5, 0.3]]), 1.2
    where = Problem(
        examples.bandit(means=[0.0, 1.0, 5.0]), TabularSoftmax(1, 3), np.array([0.5, -0.2, 0.3]), behaviour=behaviour
    )

    def truncated(log_probs, batch, problem):
        stopped = problem.policy.log_probabilities(problem.theta)[batch.states, batch.actions]
        ratio = np.minimum(np.exp(stopped - batch.log_probabilities), cap)
        return -(ratio * log_probs * batch.rewards * batch.mask).sum(axis=1).mean()

    def through_real(log_probs, batch, problem):
        ratio = np.minimum(np.exp(log_probs.real - batch.log_probabilities), cap)
        return -(ratio * log_probs * batch.rewards * batch.mask).sum(axis=1).mean()

    found = judge(numpy_loss(truncated), where).moments
    expected = judge(Estimator(RewardToGo(), ratio=TruncatedRatio(cap)), where).moments
    assert_exact(found.mean, expected.mean, 10.0)
    assert_exact(found.variance, expected.variance, 100.0)
    with pytest.raises(
        ValueError, match=r"where real is meant to stop the gradient, take problem\.policy\.log_probabilities"
    ):
        judge(numpy_loss(through_real), where)
    through = judge(numpy_loss(through_real, differences=True), where).moments.mean
    assert np.abs(through - expected.mean).max() > 0.1  # differences go through it, as is said


def test_a_missing_framework_is_named():
    with pytest.raises(
        ImportError, match=r"torch_loss needs PyTorch \(.*\); install it, or write the loss for numpy_loss"
    ):
        losses._imported("no_such_framework", "torch_loss", "PyTorch")


def test_pytorch():
    torch = pytest.importorskip("torch")
    for loss in (whole_return, mean_square):
        same_moments(torch_loss(loss), numpy_loss(loss), PROBLEM)

    def stopped(log_probs, batch):
        """The ratio of a policy to itself."""
        ratio = torch.exp(log_probs - log_probs.detach())
        return -(ratio * batch.mask * batch.rewards.sum(1, keepdim=True)).sum(1).mean()

    with torch.no_grad():  # as evaluation code may have left it
        assert judge(torch_loss(stopped), PROBLEM, objective=Undiscounted()).kind == "unbiased"
    single = judge(torch_loss(stopped, precision=torch.float32), PROBLEM, objective=Undiscounted())
    assert single.kind == "unbiased" and single.moments.precision == np.finfo(np.float32).eps
    assert np.abs(single.bias).max() > 1e-10  # it was single precision
    wrong = judge(torch_loss(lambda x, batch: stopped(x, batch) * 1.001, precision=np.float32), PROBLEM)
    assert wrong.kind == "biased"

    def filtered(log_probs, batch):
        """A batch without success has no loss."""
        return stopped(log_probs, batch) if batch.rewards.max() > 1 else torch.zeros(())

    assert judge(torch_loss(filtered), PROBLEM, objective=Undiscounted()).kind == "biased"
    assert judge(torch_loss(lambda x, batch: torch.zeros(())), PROBLEM).relative_bias == 1.0
    with pytest.raises(TypeError, match="returned"):  # a number has lost the way back to the log-probabilities
        judge(torch_loss(lambda x, batch: x.sum().item()), PROBLEM)

    def full_kl(table, batch, problem):
        reference = torch.as_tensor(problem.policy.log_probabilities(problem.reference))[batch.states]
        return ((table.exp() * (table - reference)).sum(2) * batch.mask).sum(1).mean()

    one_step = PROBLEM.replace(mdp=MDP.replace(horizon=1, reward=0 * MDP.reward))
    kl = judge(torch_loss(full_kl, all_actions=True), one_step, objective=KLRegularised(REFERENCE, 1.0))
    assert kl.kind == "unbiased"
    with pytest.raises(TypeError, match=r"returned shape \(1, 2\)"):
        judge(torch_loss(lambda x, batch: x), PROBLEM)
    with pytest.raises(TypeError, match="returned tuple"):
        judge(torch_loss(lambda x, batch: (x.sum(), {})), PROBLEM)


def test_jax():
    jax = pytest.importorskip("jax")
    for loss in (whole_return, mean_square):
        ours, theirs = moments(jax_loss(loss), PROBLEM), moments(numpy_loss(loss), PROBLEM)
        assert ours.precision == np.finfo(np.float32).eps
        assert np.abs(ours.mean - theirs.mean).max() <= 1e-6 * np.abs(theirs.mean).max()

    def stopped(log_probs, batch):
        ratio = jax.numpy.exp(log_probs - jax.lax.stop_gradient(log_probs))
        return -(ratio * batch.mask * batch.rewards.sum(1)[:, None]).sum(1).mean()

    assert judge(jax_loss(stopped), PROBLEM, objective=Undiscounted()).kind == "unbiased"
    assert judge(jax_loss(lambda x, batch: 0.0), PROBLEM).relative_bias == 1.0
    with pytest.raises(TypeError, match=r"returned shape \(1, 2\)"):
        judge(jax_loss(lambda x, batch: x), PROBLEM)
    with pytest.raises(TypeError, match="returned tuple"):
        judge(jax_loss(lambda x, batch: (x.sum(), {})), PROBLEM)
