"""The short corridor of Sutton & Barto, Figures 13.1 and 13.2, with many independent runs side by side.

Every run has its own parameters (θ_right, θ_left, w), R of them in one flat vector, and draws one episode
per iteration; `train` moves all of them at once. The book changes θ (and w) at every step of an episode; an
`Estimator` adds the steps of an episode up and changes θ once. Both are here.
"""

from dataclasses import dataclass

import numpy as np

from reinforce_np import Draw, LinearSoftmax, Trajectories, algorithms, examples
from reinforce_np.estimators.returns import rewards_to_go
from reinforce_np.mdp import FiniteMDP
from reinforce_np.training import SGD, Evaluation, train

NEXT = np.array([[1, 0], [0, 2], [3, 1]])  # state after right, left; switched in state 1; 3 is the goal
START = (-1.47, 1.47)  # right with probability 0.05, as in the published code of the figure
FLOOR = 0.005  # of both probabilities, so that episodes end; that code has 0.05, the book says nothing
OPTIMUM = -(6 + 4 * np.sqrt(2))
NO_EVALUATION = Evaluation(every=0)


@dataclass(frozen=True, eq=False)
class Runs:
    """R corridors as one model: run r has the states 4r ... 4r + 3 and its own two parameters of the policy."""

    n_runs: int
    floor: float = 0.0  # of both probabilities
    own_rule: bool = False  # whether something else than an `Estimator` moves the parameters

    def __post_init__(self):
        R, one = self.n_runs, examples.short_corridor()
        shift = 4 * np.arange(R)[:, None, None, None]
        parts = {name: np.tile(getattr(one, name), (R, 1, 1)) for name in ("probability", "reward", "terminated")}
        initial = np.tile(one.initial / R, R)
        next_state = (one.next_state[None] + shift).reshape(4 * R, 2, 1)
        features = np.zeros((R, 4, 2, R, 2))
        for a in range(2):
            features[np.arange(R), :, a, np.arange(R), a] = 1.0
        mdp = FiniteMDP(**parts, next_state=next_state, initial=initial, gamma=1.0, horizon=None)
        object.__setattr__(self, "mdp", mdp)
        object.__setattr__(self, "policy", None if self.own_rule else LinearSoftmax(features.reshape(4 * R, 2, 2 * R)))

    def draw(self, theta, n, *, rng=None, executor=None):
        """Return one episode of each run."""
        assert n == self.n_runs, "one episode for each run"
        preference = theta.reshape(n, -1)
        right = probability_of_right(preference, self.floor)
        bits, state, live = np.random.default_rng(rng), np.zeros(n, dtype=np.intp), np.arange(n)
        states, actions = [], []
        while live.size:
            action = np.zeros(n, dtype=np.intp)
            action[live] = bits.random(live.size) >= right[live]
            states.append(state.copy())
            actions.append(action)
            state[live] = NEXT[state[live], action[live]]
            live = live[state[live] != 3]
        states, actions = np.array(states).T, np.array(actions).T
        lengths = (states != 3).sum(axis=1)
        mask = np.arange(states.shape[1]) < lengths[:, None]
        log_probability = np.log(np.where(actions == 0, right[:, None], 1 - right[:, None]))
        trajectories = Trajectories(
            states=np.where(mask, states, 0) + 4 * np.arange(n)[:, None], actions=np.where(mask, actions, 0),
            rewards=np.where(mask, -1.0, 0.0), lengths=lengths, terminated=np.ones(n, bool), truncated=np.zeros(n, bool),
            final_states=3 + 4 * np.arange(n), log_probabilities=np.where(mask, log_probability, 0.0), groups=np.arange(n),
        )  # fmt: skip
        return Draw(trajectories, self.mdp, self.policy)


def probability_of_right(preference, floor):
    """π(right), shape (R,), of preferences (R, 2 or more): right, left; never outside [floor, 1 − floor]."""
    p = 1.0 / (1.0 + np.exp(np.clip(preference[:, 1] - preference[:, 0], -700, 700)))
    return np.clip(p, floor, 1 - floor)


def every_step(alpha, alpha_w=None, *, floor=FLOOR):
    """The boxes of sections 13.3 and 13.4: θ and w change at every step of an episode.

    Returned is the whole change divided by α, so that SGD(α) makes it.
    """

    def change(trajectories, theta):
        now = theta.reshape(len(trajectories), -1).copy()
        G = rewards_to_go(trajectories.rewards, 1.0)
        for t in range(trajectories.n_steps):
            live = trajectories.lengths > t
            delta = np.where(live, G[:, t] - (0.0 if alpha_w is None else now[:, 2]), 0.0)
            score = (trajectories.actions[:, t] == 0) - probability_of_right(
                now, floor
            )  # of θ_right; θ_left has its negative
            if alpha_w is not None:
                now[:, 2] += alpha_w * delta
            now[:, 0] += alpha * delta * score
            now[:, 1] -= alpha * delta * score
        return (now.ravel() - theta) / alpha

    return change


def reproduce(alpha, alpha_w=None, *, runs=100, episodes=1000, floor=FLOOR, seed=0):
    """Return the total reward of every episode, averaged over the runs, as the book trains: shape (episodes,)."""
    baseline = alpha_w is not None
    start = np.tile([*START, *[0.0] * baseline], runs)
    source = Runs(runs, floor, own_rule=True)
    found = train(
        source, every_step(alpha, alpha_w, floor=floor), SGD(alpha), iterations=episodes, batch_size=runs, theta=start,
        evaluation=NO_EVALUATION, rng=seed,
    )  # fmt: skip
    return found.history.mean_return


def once_an_episode(alpha, *, runs=100, episodes=1000, seed=0):
    """The same with an `Estimator` of the package: one change an episode, and no floor."""
    found = train(
        Runs(runs), algorithms.reinforce(), SGD(alpha * runs), iterations=episodes, batch_size=runs,
        theta=np.tile(START, runs), evaluation=NO_EVALUATION, rng=seed,
    )  # fmt: skip
    return found.history.mean_return
