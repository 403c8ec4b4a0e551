"""The loop against the same steps by hand; critics against other routes; what it refuses; what a book printed."""

import csv
import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
from tolerances import assert_exact

from benchmarks import short_corridor
from reinforce_np import (
    ClippedRatio,
    Draw,
    Estimator,
    FileFormatError,
    FiniteMDP,
    ModelSource,
    RewardToGo,
    TabularSoftmax,
    algorithms,
    exact,
    examples,
    sample,
)
from reinforce_np.training import (
    SGD,
    Adam,
    Checkpoint,
    Evaluation,
    History,
    LeastSquares,
    NaturalGradient,
    TemporalDifference,
    Update,
    clouds,
    exact_fisher,
    exact_path,
    train,
)
from reinforce_np.training.loop import DRAWING, SHUFFLING
from reinforce_np.training.updates import divergence, minibatches

MDP, POLICY = examples.referee(), TabularSoftmax(3, 3)
START = np.linspace(-1, 1, 9)
QUIET = Evaluation(every=0)


def child(seed, *key):
    return np.random.SeedSequence(seed, spawn_key=key)


def run(estimator=None, optimiser=None, **options):
    options = {"iterations": 4, "batch_size": 6, "theta": START, "evaluation": QUIET, "rng": 7} | options
    estimator = algorithms.reinforce() if estimator is None else estimator
    source = options.pop("source", (MDP, POLICY))
    return train(source, estimator, Adam(0.1) if optimiser is None else optimiser, **options)


class Heard(NamedTuple):
    """How many gradients were heard."""

    t: int


@dataclasses.dataclass(frozen=True)
class Listener:
    """An optimiser that goes nowhere and keeps what it is told."""

    heard: list

    def start(self, theta):
        return Heard(0)

    def step(self, theta, gradient, state, draw=None):
        self.heard.append(gradient)
        return theta, Heard(state.t + 1)


# --- the loop -----------------------------------------------------------------------------------------------------


def test_the_loop_is_sample_score_update_repeat():
    theta, optimiser = START, Adam(0.1)
    state, returns = optimiser.start(theta), []
    for i in range(4):
        batch = sample(MDP, POLICY, theta, 6, rng=child(7, i, DRAWING, 0))
        returns.append(batch.rewards.sum(axis=1).mean())
        theta, state = optimiser.step(theta, algorithms.reinforce().gradient(batch, MDP, POLICY, theta), state)
    found = run()
    assert np.array_equal(found.theta, theta)
    assert np.array_equal(found.history.mean_return, returns)
    assert found.history.trajectories.tolist() == [6, 12, 18, 24]
    with ThreadPoolExecutor(2) as executor:
        assert np.array_equal(run(executor=executor).theta, theta)
    assert not np.array_equal(run(rng=8).theta, theta)
    own = run(lambda trajectories, theta: algorithms.reinforce().gradient(trajectories, MDP, POLICY, theta))
    assert np.array_equal(own.theta, theta)


def test_batches_are_accumulated():
    heard = []
    found = run(optimiser=Listener(heard), iterations=2, update=Update(accumulate=3))
    each = [
        algorithms.reinforce().gradient(sample(MDP, POLICY, START, 6, rng=child(7, 1, DRAWING, j)), MDP, POLICY, START)
        for j in range(3)
    ]
    assert_exact(heard[1], np.mean(each, axis=0))
    assert found.history.trajectories.tolist() == [18, 36]


def test_epochs_minibatches_and_target_kl():
    ppo = algorithms.ppo(np.zeros(3), lam=1.0)
    found = run(ppo, SGD(0.5), update=Update(epochs=3, minibatches=2))
    assert found.history.updates.tolist() == [6] * 4
    draw = ModelSource(MDP, POLICY).draw(START, 6, rng=child(7, 0, DRAWING, 0))
    rng, theta = np.random.Generator(np.random.PCG64(child(7, 0, SHUFFLING))), START
    for _ in range(3):
        for part in minibatches(draw.trajectories, 2, rng):
            theta = theta + 0.5 * ppo.gradient(part, MDP, POLICY, theta)
    assert np.array_equal(run(ppo, SGD(0.5), iterations=1, update=Update(3, 2)).theta, theta)
    assert_exact(found.history.kl[0], divergence(draw, theta))
    stopped = run(ppo, SGD(0.5), update=Update(epochs=3, minibatches=2, target_kl=1e-4)).history
    assert (stopped.updates < 6).all() and (stopped.kl > 1e-4).all() and (stopped.updates >= 1).all()


def test_minibatches_are_whole_groups():
    trajectories = sample(MDP, POLICY, START, 21, group_size=3, rng=0)
    parts = list(minibatches(trajectories, 3, np.random.default_rng(0)))
    assert sorted(len(part) for part in parts) == [6, 6, 9]
    assert sorted(np.concatenate([part.groups for part in parts]).tolist()) == trajectories.groups.tolist()
    assert [sorted(set(p.groups.tolist())) for p in parts] != [[0, 1, 2], [3, 4], [5, 6]]  # shuffled
    with pytest.raises(ValueError, match="minibatches=8 is more than the 7 groups"):
        list(minibatches(trajectories, 8, np.random.default_rng(0)))


def test_the_divergence_is_unbiased():
    """Each action of a bandit once, weighted with its probability: KL(μ ‖ π) in closed form."""
    mdp, policy = examples.bandit(), TabularSoftmax(1, 3)
    theta, mu = np.array([0.5, -1.0, 0.0]), np.array([0.2, 0.3, 0.5])
    batch = sample(mdp, policy, theta, 200, behaviour=mu[None], rng=0)
    each = [batch.take([np.argmax(batch.actions[:, 0] == a)]) for a in range(3)]
    total = sum(p * divergence(Draw(one, mdp, policy), theta) for p, one in zip(mu, each, strict=True))
    assert_exact(total, np.sum(mu * np.log(mu / policy.probabilities(theta)[0])))


def test_clipping_and_the_norm_before_it():
    heard = []
    found = run(optimiser=Listener(heard), update=Update(clip_norm=0.1))
    assert (found.history.gradient_norm > 0.1).all()
    assert_exact([np.linalg.norm(g) for g in heard], np.full(4, 0.1))


# --- exact answers along the way ----------------------------------------------------------------------------------


def test_what_is_exact_is_exact():
    source = ModelSource(MDP.replace(horizon=2), POLICY, group_size=2)
    found = run(algorithms.rloo(), source=source, evaluation=Evaluation(every=2, moments=True, keep_theta=True)).history
    assert found.evaluated.tolist() == [0, 2, 4]
    for e, theta in enumerate(found.theta):
        assert_exact(found.objective[e], exact.objective(source.mdp, POLICY, theta))
        moments = exact.moments(algorithms.rloo(), source.mdp, POLICY, theta, prompts=3, group_size=2)
        assert_exact(found.signal_to_noise[e] ** 2, moments.mean @ moments.mean / moments.total_variance)
        assert found.relative_bias[e] < 1e-12
    assert np.array_equal(found.theta[0], START)
    averaged = run(evaluation=Evaluation(moments=True), iterations=0, update=Update(accumulate=4)).history
    assert_exact(4 * averaged.noise, run(evaluation=Evaluation(moments=True), iterations=0).history.noise)


def test_the_noise_is_that_of_a_step():
    """A minibatch is a part of the batch; a critic that learns between accumulated batches has no one V."""
    source, ratio = (
        (examples.bandit(means=[10.0, 11.0]), TabularSoftmax(1, 2)),
        Estimator(RewardToGo(), ratio=ClippedRatio(0.2, 0.2)),
    )
    heard = []

    class Listening(SGD):
        def step(self, theta, gradient, state, draw):
            heard.append(gradient)
            return super().step(theta, gradient, state, draw)

    def noise(n, **options):
        update = Update(minibatches=n)
        return train(
            source, ratio, SGD(1e-9), iterations=0, update=update, evaluation=Evaluation(moments=True), rng=0, **options
        ).history.noise[0]

    assert_exact(noise(4, batch_size=20), 4 * noise(1, batch_size=20))
    assert_exact(noise(4, batch_size=18), 18 / 5 * noise(1, batch_size=18))  # 5, 5, 4 and 4
    train(
        source,
        ratio,
        Listening(1e-12),
        iterations=2000,
        batch_size=20,
        update=Update(minibatches=4),
        evaluation=Evaluation(every=0),
        rng=0,
    )
    assert abs(np.var(heard, axis=0).sum() / noise(4, batch_size=20) - 1) < 0.05
    with pytest.raises(ValueError, match=r"accumulate=4: the critic learns"):
        train(source, algorithms.reinforce_with_baseline, SGD(0.1), iterations=1, batch_size=20, update=Update(accumulate=4),
              critic=LeastSquares(), evaluation=Evaluation(moments=True))  # fmt: skip


@pytest.mark.parametrize("scale", [1e-200, 1e160])
def test_lengths_whose_squares_are_no_floats(scale):
    def lengths(scale):
        model = examples.referee()
        found = train((model.replace(reward=model.reward * scale), POLICY), algorithms.reinforce(), SGD(1 / scale), iterations=2,
                      batch_size=20, rng=0).history  # fmt: skip
        return np.append(found.gradient_norm, found.exact_gradient_norm)

    assert np.allclose(lengths(scale) / scale, lengths(1.0), rtol=1e-9)


def test_a_cloud_has_the_moments_of_what_is_in_it():
    """A bandit in closed form: one pull gives r_a ψ_a with probability π_a."""
    mdp, policy, theta = examples.bandit(means=[1.0, 3.0, 2.0]), TabularSoftmax(1, 3), np.array([0.0, 0.5, -1.0])
    found = clouds(mdp, policy, theta, {"REINFORCE": algorithms.reinforce()}, batch_size=4, batches=5, rng=0)
    pi, each = policy.probabilities(theta)[0], np.array([[1.0], [3.0], [2.0]]) * policy.score(theta)[0]
    mean = pi @ each
    covariance = (each - mean).T @ (pi[:, None] * (each - mean)) / 4
    assert_exact(found.means[0], [np.linalg.norm(mean), 0.0])
    assert_exact(found.covariances[0], found.plane @ covariance @ found.plane.T)
    assert_exact(found.plane @ found.plane.T, np.eye(2))
    batch = sample(mdp, policy, theta, 4, rng=child(0, 3))
    assert_exact(found.points[0, 3], found.plane @ algorithms.reinforce().gradient(batch, mdp, policy, theta))


def test_the_exact_path_is_what_an_exact_estimator_does():
    def gradient(trajectories, theta):
        return exact.gradient(MDP, POLICY, theta)

    for optimiser in (Adam(0.1), NaturalGradient(0.1, fisher=exact_fisher)):
        found = run(gradient, optimiser, evaluation=Evaluation(keep_theta=True), update=Update(clip_norm=0.5)).history
        path = exact_path(MDP, POLICY, optimiser, iterations=4, theta=START, clip_norm=0.5)
        assert np.array_equal(found.theta, path.theta)
        assert_exact(found.objective, path.objective)


def test_an_estimated_fisher_information_is_the_exact_one_on_the_exact_path():
    estimated, exactly = (exact_path(MDP, POLICY, NaturalGradient(0.1, **options), iterations=3, theta=START)
                          for options in ({}, {"fisher": exact_fisher}))  # fmt: skip
    assert np.array_equal(estimated.theta, exactly.theta) and not np.array_equal(estimated.theta[0], estimated.theta[3])


@pytest.mark.parametrize("clip_norm", [-1.0, 0.0, np.nan, "a"])
def test_a_path_is_clipped_by_a_length(clip_norm):
    with pytest.raises((ValueError, TypeError), match="clip_norm="):
        exact_path(MDP, POLICY, SGD(0.1), iterations=2, clip_norm=clip_norm)


# --- critics ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """A source of what it is given, one draw after the other."""

    draws: list
    policy: TabularSoftmax

    def draw(self, theta, n, *, rng=None, executor=None):
        return self.draws[rng.spawn_key[0]]


def mean_estimates(critic):
    """E of what the loop estimates from the second of two batches of two pulls of a bandit, exactly; and ∇J."""
    mdp, policy, theta = examples.bandit(means=[1.0, 3.0]), TabularSoftmax(1, 2), np.array([0.0, 0.5])
    pulls = sample(mdp, policy, theta, 100, rng=0)
    arm = [np.argmax(pulls.actions[:, 0] == a) for a in range(2)]
    pairs = [(a, b) for a in range(2) for b in range(2)]
    draws = {pair: Draw(pulls.take([arm[a] for a in pair]), mdp, policy) for pair in pairs}
    p = policy.probabilities(theta)[0]
    total = np.zeros(2)
    for first in pairs:
        for second in pairs:
            heard = []
            source = Given([draws[first], draws[second]], policy)
            train(
                source, algorithms.reinforce_with_baseline, Listener(heard), iterations=2, batch_size=2, theta=theta,
                critic=critic, rng=0,
            )  # fmt: skip
            total += np.prod(p[[*first, *second]]) * heard[1]
    return total, exact.gradient(mdp, policy, theta)


@pytest.mark.parametrize("critic", [LeastSquares(), TemporalDifference(0.5)])
def test_a_critic_of_other_data_leaves_the_mean_alone(critic):
    found, gradient = mean_estimates(critic)
    assert_exact(found, gradient, 3.0)


def test_a_critic_of_the_same_data_does_not():
    """The negative control, and what `critics` says of it: with two pulls, half of the gradient is lost."""
    found, gradient = mean_estimates(LeastSquares(in_sample=True))
    assert_exact(found, gradient / 2, 3.0)


FEATURES = np.array([[1.0, 0.0], [1.0, 0.5], [0.5, -1.0]])


def visits_and_returns(batch, gamma):
    """State and return of every visit, by a plain loop."""
    found = []
    for n in range(len(batch)):
        for t in range(batch.lengths[n]):
            rest = batch.rewards[n, t : batch.lengths[n]]
            found.append((batch.states[n, t], sum(gamma**u * r for u, r in enumerate(rest))))
    return found


def test_least_squares_are_least_squares():
    source = ModelSource(MDP, POLICY)
    draws = [source.draw(START, 20, rng=seed) for seed in (0, 1)]
    (s0, G0), (s1, G1) = (np.array(visits_and_returns(d.trajectories, MDP.gamma)).T for d in draws)
    states, G = np.concatenate([s0, s1]).astype(int), np.concatenate([G0, G1])
    weight = np.sqrt(np.where(np.arange(len(G)) < len(G0), 0.25, 1.0))  # the older batch counts a quarter
    for features in (None, FEATURES):
        critic, phi = LeastSquares(features, memory=0.25), np.eye(3) if features is None else features
        state = critic.start(draws[0])
        for draw in draws:
            state = critic.fit(state, draw)
        w = np.linalg.lstsq(weight[:, None] * phi[states], weight * G, rcond=None)[0]
        assert np.abs(critic.values(state, draws[1]) - phi @ w).max() < 1e-9


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("bootstrap", [False, True])
def test_temporal_differences_are_eligibility_traces(lam, bootstrap):
    """The forward view against the backward one, offline: e ← γλe + φ(s), w ← w + α δ e (Sutton & Barto, (12.5) to (12.7))."""
    draw = ModelSource(MDP, POLICY).draw(START, 15, rng=0)
    batch, w, alpha = draw.trajectories, np.array([0.5, -1.0]), 0.3
    assert batch.truncated.any() and batch.terminated.any()
    change = np.zeros(2)
    for n in range(len(batch)):
        e, length = np.zeros(2), batch.lengths[n]
        for t in range(length):
            last = t == length - 1
            s, after = batch.states[n, t], batch.final_states[n] if last else batch.states[n, t + 1]
            alive = not last or (bootstrap and batch.truncated[n])
            delta = batch.rewards[n, t] + MDP.gamma * alive * FEATURES[after] @ w - FEATURES[s] @ w
            e = MDP.gamma * lam * e + FEATURES[s]
            change += alpha * delta * e / len(batch)
    critic = TemporalDifference(alpha, lam, FEATURES, bootstrap_at_truncation=bootstrap)
    found = critic.fit(critic.State(w), draw)
    assert_exact(found.w, w + change)
    twice = dataclasses.replace(critic, sweeps=2).fit(critic.State(w), draw)
    assert_exact(twice.w, critic.fit(found, draw).w)


def test_least_squares_fit_better_with_more_features():
    """Powers of numbers up to 500: weighted residuals against a fit by orthogonal polynomials."""
    x, y, S = np.arange(6) * 100.0, np.array([1.0, 5.0, 2.0, -3.0, 4.0, 0.0]), 6
    mdp = FiniteMDP(np.ones((S, 2, 1)), np.zeros((S, 2, 1), int), np.repeat(y[:, None, None], 2, axis=1), np.ones((S, 2, 1), bool),
                    initial=np.ones(S) / S, gamma=1.0, horizon=1)  # fmt: skip
    draw = ModelSource(mdp, TabularSoftmax(S, 2)).draw(np.zeros(12), 600, rng=0)
    weight = np.sqrt(np.bincount(draw.trajectories.states[:, 0], minlength=S))
    for n in (2, 3, 4, 5):
        critic = LeastSquares(features=np.stack([x**i for i in range(n)], axis=1))
        V = critic.values(critic.fit(critic.start(draw), draw), draw)
        basis = np.linalg.qr(weight[:, None] * (x[:, None] / 500) ** np.arange(n))[0]
        np.testing.assert_allclose(weight * V, basis @ (basis.T @ (weight * y)), atol=1e-5)


def test_what_was_seen_long_ago_is_remembered_by_features_too():
    mdp, policy = MDP.replace(horizon=1, reward=5.0 * np.ones_like(MDP.reward)), POLICY
    there, elsewhere = (
        ModelSource(mdp.replace(initial=row), policy).draw(START, 4, rng=0) for row in ([0, 0, 1], [1, 0, 0])
    )
    for features in (None, np.eye(3), np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])):
        critic = LeastSquares(features, memory=0.5)
        state = critic.fit(critic.start(there), there)
        for _ in range(600):
            state = critic.fit(state, elsewhere)
        assert_exact(critic.values(state, elsewhere)[[0, 2]], [5.0, 5.0])
        for _ in range(900):  # below the smallest number there is
            state = critic.fit(state, elsewhere)
            assert -1e-9 <= critic.values(state, elsewhere)[2] <= 5 + 1e-9
        assert_exact(critic.values(state, elsewhere)[2], 0.0 if features is not None and features[2, 0] == 0 else 5.0)
        state = critic.fit(state, ModelSource(mdp.replace(reward=-mdp.reward), policy).draw(START, 50, rng=0))
        assert_exact(critic.values(state, elsewhere)[2], -5.0)
        forgetful = LeastSquares(features)
        assert_exact(
            forgetful.values(forgetful.fit(forgetful.fit(forgetful.start(there), there), elsewhere), there)[0], 5.0
        )
    assert LeastSquares().values(forgetful_sums(there, elsewhere), there)[2] == 0.0


@pytest.mark.parametrize("features", [
    [[1, 0, 0], [0, 1, 0], [0, 1, 10], [0, 2, 10]], [[1, 0, 0], [1, 1, 0], [1, 1, 10], [1, 2, 10]], [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 2]],
])  # fmt: skip
def test_features_that_states_share_fade_without_a_wild_value(features):
    """Two states unseen for long, fitted exactly: right as long as they are remembered, then a compromise, then forgotten."""
    R = np.array([1.0, 2.0, 5.0, 7.0])
    mdp = FiniteMDP(np.ones((4, 2, 1)), np.zeros((4, 2, 1), int), R[:, None, None] * np.ones((4, 2, 1)), np.ones((4, 2, 1), bool),
                    initial=np.full(4, 0.25), gamma=1.0, horizon=1)  # fmt: skip
    there, elsewhere = (
        ModelSource(mdp.replace(initial=row), TabularSoftmax(4, 2)).draw(np.zeros(8), 8, rng=0)
        for row in ([0, 0, 0.5, 0.5], [1, 0, 0, 0])
    )
    critic = LeastSquares(np.array(features, dtype=float), memory=0.3)
    state, values = critic.fit(critic.start(there), there), []
    for _ in range(500):
        state = critic.fit(state, elsewhere)
        values.append(critic.values(state, elsewhere)[2:])
    np.testing.assert_allclose(values[:350], np.tile([5.0, 7.0], (350, 1)), rtol=1e-9)
    assert np.min(values) > -1e-9 and np.max(values) < 10
    np.testing.assert_allclose(values[-1], features[2][0], atol=1e-9)  # what the first state says, where it has a say


def forgetful_sums(there, elsewhere):
    critic = LeastSquares()
    return critic.fit(critic.fit(critic.start(there), there), elsewhere)


# --- the record ---------------------------------------------------------------------------------------------------


def test_a_history_is_saved(tmp_path):
    history = run(evaluation=Evaluation(every=2, moments=True, keep_theta=True)).history
    for suffix in ("npz", "csv", "json"):
        history.save(tmp_path / f"run.{suffix}")
    again = History.load(tmp_path / "run.npz")
    for field in dataclasses.fields(History):
        assert np.array_equal(getattr(history, field.name), getattr(again, field.name))
    lines = (tmp_path / "run.csv").read_text().splitlines()
    assert len(lines) == 1 + 5 and lines[2].endswith(",,,,,")
    assert [len(line.split(",")) for line in lines] == [14] * 6
    (tmp_path / "run.npz").write_bytes((tmp_path / "run.csv").read_bytes())
    with pytest.raises(FileFormatError, match=r"run.npz: not an intact"):
        History.load(tmp_path / "run.npz")
    with pytest.raises(ValueError, match=r"suffix '.txt'"):
        history.save(tmp_path / "run.txt")


def test_what_was_not_asked_for_is_not_zero(tmp_path):
    """A relative bias of zero would say that the estimator is unbiased."""
    history = run(iterations=1, evaluation=Evaluation()).history
    for name in ("npz", "csv", "json"):
        history.save(tmp_path / f"run.{name}")
    for found in (history, History.load(tmp_path / "run.npz")):
        for column in (found.signal, found.noise, found.relative_bias, found.signal_to_noise):
            assert np.isnan(column).all() and len(column) == 2
    document = json.loads((tmp_path / "run.json").read_text())
    assert document["signal"] == document["noise"] == document["relative_bias"] == [None, None]
    header, start, after = csv.reader((tmp_path / "run.csv").read_text().splitlines())
    assert header[-3:] == ["signal", "noise", "relative_bias"] and start[-3:] == after[-3:] == ["", "", ""]
    with pytest.raises(ValueError, match=r"objective\[0\]=nan is not a finite number"):
        dataclasses.replace(history, objective=np.full(2, np.nan))


def test_no_bias_is_relative_to_no_gradient():
    flat = ModelSource(examples.bandit(means=[1.0, 1.0]), TabularSoftmax(1, 2))
    found = train(
        flat, algorithms.reinforce(), SGD(1.0), iterations=0, batch_size=1, rng=0, evaluation=Evaluation(moments=True)
    ).history
    assert np.isnan(found.relative_bias).all() and found.noise > 0
    assert found.signal == found.signal_to_noise == 0


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"source": MDP}, "source=.* draws nothing"),
        ({"estimator": "reinforce"}, "estimator='reinforce' is no Estimator"),
        ({"estimator": lambda trajectories, theta: algorithms.reinforce()}, "returned an Estimator"),
        (
            {"estimator": lambda trajectories, theta: np.zeros(2)},
            r"shape \(2,\) and dtype float64; an estimate must hold .* shape \(9,\)",
        ),
        (
            {"estimator": lambda trajectories, theta: np.zeros(9) + 1j},
            "dtype complex128; an estimate must hold one real",
        ),
        ({"estimator": lambda trajectories, theta: (np.zeros(9), 0.5)}, "returned tuple, which is no array"),
        ({"estimator": lambda trajectories, theta: None}, "returned None"),
        ({"estimator": lambda trajectories, theta: np.ma.zeros(9)}, "returned a masked array"),
        (
            {"estimator": lambda trajectories, theta: np.full(9, 1e200), "optimiser": Adam(0.1)},
            "state of the optimiser left float64",
        ),
        ({"estimator": lambda trajectories, theta: np.full(9, np.nan)}, "returned nan for component 0"),
        ({"optimiser": Adam}, "optimiser=.*Adam.* is no optimiser"),
        ({"critic": LeastSquares()}, "function from V to an Estimator"),
        ({"critic": 0.5, "estimator": algorithms.reinforce_with_baseline}, "critic=0.5 is no critic"),
        ({"critic": LeastSquares(), "estimator": lambda V: 0.0}, r"estimator\(V\) returned"),
        ({"update": Update(epochs=2)}, "ratio=OnPolicy"),
        ({"update": 2}, "update=2 is no Update"),
        ({"source": ModelSource(MDP, POLICY, group_size=4)}, "batch_size=6 is not a multiple of group_size=4"),
        ({"theta": np.zeros(3)}, "theta has shape"),
        ({"iterations": -1}, "iterations=-1"),
        (
            {"estimator": lambda trajectories, theta: np.full(9, 1e300), "optimiser": SGD(1e10)},
            "theta or the state of the optimiser left float64",
        ),
        ({"estimator": algorithms.reinforce_with_baseline, "critic": LeastSquares(np.zeros((2, 1)))}, "2 rows"),
        ({"estimator": lambda t, theta: theta, "evaluation": Evaluation(moments=True)}, "moments needs an Estimator"),
        (
            {
                "critic": LeastSquares(in_sample=True),
                "evaluation": Evaluation(moments=True),
                "estimator": algorithms.reinforce_with_baseline,
            },
            "in_sample=True makes V depend on the batch",
        ),
    ],
)
def test_refusals(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        run(**options)


def test_what_defines_a_run_may_hold_itself(tmp_path):
    def estimator(trajectories, theta, deeper=False):
        return estimator(trajectories, theta) if deeper else theta

    whole = run(estimator)
    run(estimator, iterations=2, checkpoint=Checkpoint(tmp_path / "run.npz"))
    rest = run(estimator, checkpoint=Checkpoint(tmp_path / "run.npz", resume=True))
    assert np.array_equal(whole.theta, rest.theta)


def test_choices_are_refused():
    for make, message in [
        (lambda: Update(epochs=2, accumulate=2), "accumulate=2 keeps no batch"),
        (lambda: Update(target_kl=0.0), "target_kl=0.0"),
        (lambda: LeastSquares(memory=1.0), "memory=1.0"),
        (lambda: TemporalDifference(0.1, lam=1.5), "lam=1.5"),
        (lambda: Evaluation(every=-1), "every=-1"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


# --- what others measured -----------------------------------------------------------------------------------------


def test_the_short_corridor():
    """Figures 13.1 and 13.2 of Sutton & Barto, 2nd ed., in small; `benchmarks` has them whole.

    The return of an episode scatters by as much as its mean, at most 40 here; 25 runs of 20 episodes leave 2.
    """
    options = {"runs": 25, "episodes": 80}
    curves = {
        "2^-13": short_corridor.reproduce(2.0**-13, **options),
        "2^-14": short_corridor.reproduce(2.0**-14, **options),
        "baseline": short_corridor.reproduce(2.0**-9, 2.0**-6, **options),
        "once": short_corridor.once_an_episode(2.0**-13, **options),
    }
    first, last = ({name: curve[part].mean() for name, curve in curves.items()} for part in (slice(4), slice(60, None)))
    assert -100 < first["2^-14"] < -64  # J(0.05) = -82
    assert last["2^-14"] + 4 < last["2^-13"] < last["baseline"] - 10  # the smaller step is slower, the baseline faster
    assert abs(last["baseline"] - short_corridor.OPTIMUM) < 4
    assert abs(last["once"] - last["2^-13"]) < 8  # to change θ within the episode hardly matters
