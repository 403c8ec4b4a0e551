"""The list of all trajectories against the oracle's, and refusals that cost nothing."""

import re

import numpy as np
import problems
import pytest
import reference
from hypothesis import given
from problems import PROBLEMS, table
from tolerances import EXACT, assert_exact

from reinforce_np import (
    FiniteMDP,
    TabularSoftmax,
    count_trajectories,
    enumerate_trajectories,
    enumeration,
    examples,
)
from reinforce_np.arguments import TooLargeError


def uniform(mdp):
    """A tabular policy and the parameters that make it uniform."""
    return TabularSoftmax(mdp.n_states, mdp.n_actions), np.zeros(mdp.n_states * mdp.n_actions)


def paths(trajectories, probabilities):
    """The list as tuples (steps, terminated, final state, probability), the form of the oracle's."""
    rows = []
    for n in range(len(trajectories)):
        live = range(trajectories.lengths[n])
        steps = [
            (
                int(trajectories.states[n, t]),
                int(trajectories.actions[n, t]),
                float(trajectories.rewards[n, t]),
            )
            for t in live
        ]
        rows.append(
            (
                steps,
                bool(trajectories.terminated[n]),
                int(trajectories.final_states[n]),
                float(probabilities[n]),
            )
        )
    return rows


def oracle_paths(mdp, pi):
    """The oracle's list in the same form."""
    return [
        ([(s, a, float(r)) for s, a, r in steps], over, s_end, float(p))
        for p, steps, over, s_end in reference.trajectories(mdp, pi)
    ]


def line(n, *, horizon=None, actions=1):
    """Walk right through n states and end."""
    state = np.arange(n)[:, None, None].repeat(actions, axis=1)
    return FiniteMDP(
        np.ones(state.shape),
        np.minimum(state + 1, n - 1),
        np.zeros(state.shape),
        state == n - 1,
        initial=np.eye(1, n)[0],
        gamma=1.0,
        horizon=horizon,
    )


# Against the oracle.


@given(problems.problems(extreme=True))
def test_the_list_is_the_oracles_in_the_same_order(problem):
    mdp, policy, theta = problem
    expected = oracle_paths(mdp, table(policy, theta))
    actual = paths(*enumerate_trajectories(*problem))
    assert [row[:3] for row in actual] == [row[:3] for row in expected]
    assert_exact([row[3] for row in actual], [row[3] for row in expected], scale=1.0)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_list_of_the_fixed_problems(name):
    mdp, policy, theta = PROBLEMS[name]
    expected = oracle_paths(mdp, table(policy, theta))
    trajectories, p = enumerate_trajectories(mdp, policy, theta)
    assert [row[:3] for row in paths(trajectories, p)] == [row[:3] for row in expected]
    exact_p = np.array([row[3] for row in expected])
    assert np.all(np.abs(p - exact_p) <= 10 * EXACT * exact_p + 1e-300)  # relative: also when near exp(-600)


@given(problems.problems(extreme=True))
def test_the_count_is_the_length_of_the_list(problem):
    mdp, policy, theta = problem
    n = count_trajectories(*problem)
    assert type(n) is int
    assert (
        n
        == len(enumerate_trajectories(*problem).trajectories)
        == reference.count_trajectories(mdp, table(policy, theta))
    )
    assert count_trajectories(mdp) == reference.count_trajectories(mdp, [[1] * mdp.n_actions] * mdp.n_states)


@given(problems.problems(extreme=True))
def test_probabilities_are_positive_and_sum_to_one(problem):
    trajectories, p = enumerate_trajectories(*problem)
    assert p.shape == (len(trajectories),) and np.all(p > 0)
    assert_exact(p.sum(), 1.0)


@given(problems.problems(extreme=True))
def test_the_record_is_complete(problem):
    mdp, policy, theta = problem
    trajectories, _ = enumerate_trajectories(*problem)
    n, t = np.nonzero(trajectories.mask)
    log_pi = policy.log_probabilities(theta)[trajectories.states[n, t], trajectories.actions[n, t]]
    assert np.array_equal(trajectories.log_probabilities[n, t], log_pi)
    assert np.array_equal(trajectories.truncated, ~trajectories.terminated)
    assert np.all(trajectories.lengths[trajectories.truncated] == mdp.horizon)
    assert np.array_equal(trajectories.groups, np.arange(len(trajectories)))
    for name in ("states", "actions", "rewards", "log_probabilities"):
        array = getattr(trajectories, name)
        assert array.shape == (len(trajectories), mdp.horizon) and not array[~trajectories.mask].any(), name


def test_the_order_is_lexicographic_in_state_action_and_outcome():
    """Rewards 100 s + 10 a + k name the outcomes, so the rows of rewards must be sorted."""
    state, action, outcome = np.ogrid[:3, :2, :2]
    mdp = examples.random_mdp(n_states=3, n_actions=2, n_outcomes=2, termination=0.3, horizon=3, rng=3)
    mdp = mdp.replace(reward=100.0 * state + 10 * action + outcome + 1)
    rows = enumerate_trajectories(mdp, *uniform(mdp)).trajectories.rewards.tolist()
    assert len(rows) > 50 and rows == sorted(rows)


def test_without_steps_there_is_one_trajectory_for_each_start():
    mdp = examples.referee(horizon=0)
    trajectories, p = enumerate_trajectories(mdp, *uniform(mdp))
    assert np.array_equal(p, mdp.initial) and trajectories.states.shape == (3, 0)
    assert trajectories.truncated.all() and trajectories.final_states.tolist() == [
        0,
        1,
        2,
    ]
    assert count_trajectories(mdp) == 3


def test_an_action_that_underflows_is_not_listed():
    mdp = examples.bandit(means=[0.0, 1.0, 2.0])
    assert enumerate_trajectories(mdp, TabularSoftmax(1, 3), [0.0, -800.0, -np.inf]).probabilities.tolist() == [1.0]
    assert count_trajectories(mdp, TabularSoftmax(1, 3), [0.0, -800.0, -np.inf]) == 1


# Another policy draws the actions.


@pytest.mark.parametrize(
    "behaviour",
    [
        np.cos(np.arange(9.0)),
        np.array([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5], [1.0, 0.0, 0.0]]),
    ],
)
def test_the_behaviour_gives_the_probabilities(behaviour):
    mdp, policy = examples.referee(horizon=3), TabularSoftmax(3, 3)
    mu = policy.probabilities(behaviour) if behaviour.ndim == 1 else behaviour
    trajectories, p = enumerate_trajectories(mdp, policy, np.zeros(9), behaviour=behaviour)
    expected = oracle_paths(mdp, mu.tolist())
    assert [row[:3] for row in paths(trajectories, p)] == [row[:3] for row in expected]
    assert_exact(p, [row[3] for row in expected], scale=1.0)
    n, t = np.nonzero(trajectories.mask)
    assert_exact(
        np.exp(trajectories.log_probabilities[n, t]),
        mu[trajectories.states[n, t], trajectories.actions[n, t]],
    )


def test_a_bad_behaviour_is_refused_by_its_name():
    mdp = examples.referee()
    with pytest.raises(ValueError, match=r"behaviour\[0\] sums to 1.5"):
        enumerate_trajectories(mdp, *uniform(mdp), behaviour=np.full((3, 3), 0.5))


# No horizon.


def test_without_a_horizon_a_model_without_cycles_is_listed():
    mdp = examples.copy_task()
    endless = mdp.replace(horizon=None)
    listed, expected = (
        enumerate_trajectories(endless, *uniform(mdp)),
        enumerate_trajectories(mdp, *uniform(mdp)),
    )
    assert paths(*listed) == paths(*expected)
    assert count_trajectories(endless) == count_trajectories(mdp) == 2 * (2**4 - 1)
    assert listed.trajectories.n_steps == 3 and listed.trajectories.terminated.all()


def test_without_a_horizon_token_sequences_have_their_probabilities():
    mdp = examples.token_sequences("ab", 2, lambda prompt, tokens: tokens.count("a"), ["x"]).replace(horizon=None)
    trajectories, p = enumerate_trajectories(mdp, *uniform(mdp))
    assert trajectories.lengths.tolist() == [2, 2, 2, 2, 2, 2, 1]
    assert_exact(p, [1 / 9] * 6 + [1 / 3])


def test_the_longest_episode_may_visit_every_state():
    mdp = line(5)
    assert enumerate_trajectories(mdp, *uniform(mdp)).trajectories.lengths.tolist() == [5]
    assert count_trajectories(line(5, actions=2)) == 32


def test_without_a_horizon_a_cycle_is_refused():
    mdp = examples.referee(horizon=None)
    message = re.escape(
        "horizon=None and the model has a cycle, so there are infinitely many trajectories: "
        "use exact.gradient (linear solve), or replace(horizon=...)"
    )
    with pytest.raises(TooLargeError, match=message):
        enumerate_trajectories(mdp, *uniform(mdp))
    with pytest.raises(TooLargeError, match=message):
        count_trajectories(mdp)


@pytest.mark.parametrize("kind", ["out of reach", "of an action never taken", "of an impossible outcome"])
def test_a_cycle_that_cannot_be_entered_does_no_harm(kind):
    """State 0 goes to 1, which ends; 2 stays for ever, action 1 of state 0 stays, an outcome of probability 0 stays."""
    terminated = np.zeros((3, 2, 2), dtype=bool)
    terminated[1] = True
    next_state = np.array([[[1, 0], [0, 0]], [[1, 1], [1, 1]], [[2, 2], [2, 2]]])
    probability = np.tile([1.0, 0.0], (3, 2, 1))
    mdp = FiniteMDP(
        probability,
        next_state,
        np.ones((3, 2, 2)),
        terminated,
        initial=[1.0, 0, 0],
        gamma=1.0,
        horizon=None,
    )
    policy, theta = TabularSoftmax(3, 2), np.array([0.0, -np.inf, 0, 0, 0, 0])
    assert enumerate_trajectories(mdp, policy, theta).trajectories.lengths.tolist() == [
        2,
        2,
    ]
    with pytest.raises(TooLargeError, match="cycle"):
        enumerate_trajectories(mdp, policy, np.zeros(6))


# Counts and refusals.


def test_counts_are_exact_however_large():
    """Two actions at each of 300 steps."""
    assert count_trajectories(line(1000, horizon=300, actions=2)) == 2**300


def test_the_count_of_all_is_at_least_that_of_a_policy():
    mdp = examples.referee(horizon=3)
    theta = np.tile([0.0, -np.inf, 0.0], 3)
    assert count_trajectories(mdp) > count_trajectories(mdp, TabularSoftmax(3, 3), theta)
    assert count_trajectories(mdp) == count_trajectories(mdp, TabularSoftmax(3, 3), np.zeros(9))


def test_the_limit_is_inclusive_and_the_refusal_gives_the_count_and_the_remedy():
    mdp = examples.referee(horizon=3)
    n = count_trajectories(mdp)
    assert len(enumerate_trajectories(mdp, *uniform(mdp), limit=n).trajectories) == n
    with pytest.raises(TooLargeError) as refusal:
        enumerate_trajectories(mdp, *uniform(mdp), limit=n - 1)
    message = str(refusal.value)
    for part in (
        f"{n} trajectories",
        f"limit={n - 1}",
        "exact.gradient",
        "shorter horizon",
        "raise limit",
        "count_trajectories",
    ):
        assert part in message


@pytest.mark.parametrize(("limit", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_a_bad_limit_is_refused(limit, error):
    mdp = examples.referee()
    with pytest.raises(error, match=f"limit={limit}"):
        enumerate_trajectories(mdp, *uniform(mdp), limit=limit)


def test_too_much_memory_is_refused_within_the_limit(monkeypatch):
    """The 328 trajectories of three steps take 3 · 32 bytes each."""
    mdp = examples.referee(horizon=3)
    monkeypatch.setattr(enumeration, "MEMORY_LIMIT", 328 * 3 * 32)
    assert len(enumerate_trajectories(mdp, *uniform(mdp)).trajectories) == 328
    monkeypatch.setattr(enumeration, "MEMORY_LIMIT", 328 * 3 * 32 - 1)
    with pytest.raises(TooLargeError, match="328 trajectories, above the limit of 327"):
        enumerate_trajectories(mdp, *uniform(mdp))


def test_what_is_promised_of_memory_holds():
    trajectories = enumerate_trajectories(*PROBLEMS["referee"]).trajectories
    wide = (
        trajectories.states,
        trajectories.actions,
        trajectories.rewards,
        trajectories.log_probabilities,
    )
    assert sum(array.nbytes for array in wide) == enumeration.BYTES_PER_CELL * trajectories.states.size


def gridworld(side):
    """Walk on a square of side² cells, for ever; no walls in sight of the start."""
    cell = np.arange(side * side)[:, None]
    next_state = (cell + [1, -1, side, -side]) % side**2
    return FiniteMDP(
        np.ones((side**2, 4, 1)),
        next_state[..., None],
        np.ones((side**2, 4, 1)),
        np.zeros((side**2, 4, 1), dtype=bool),
        initial=np.eye(1, side**2, side**2 // 2)[0],
        gamma=0.9,
        horizon=100,
    )


@pytest.mark.parametrize("branches", [False, True])
def test_of_a_huge_policy_only_the_states_on_the_way_are_looked_at(monkeypatch, branches):
    """Until it is clear that the model is not too large, or will not soon be."""
    mdp, asked = gridworld(70), []
    policy, theta = TabularSoftmax(4900, 4, mask=np.tile([True, branches, False, branches], (4900, 1))), np.zeros(19600)
    original = TabularSoftmax.log_probabilities

    def log_probabilities(policy, theta, states=slice(None)):
        asked.append(policy.n_states if isinstance(states, slice) else len(states))
        return original(policy, theta, states)

    monkeypatch.setattr(TabularSoftmax, "log_probabilities", log_probabilities)
    if branches:
        with pytest.raises(TooLargeError, match=r"177147 trajectories in its first 11 of 100 steps"):
            enumerate_trajectories(mdp, policy, theta, limit=100_000)
        assert len(asked) == 11 and sum(asked) < 1000
    else:
        assert len(enumerate_trajectories(mdp, policy, theta).trajectories) == 1
        assert asked == [1] * enumeration.OFTEN + [4900]


def test_a_huge_model_is_refused_without_enumerating(monkeypatch):
    """A hundred steps on 100 000 cells: the count stops where it exceeds the limit, at the tenth."""
    mdp = gridworld(317)
    assert mdp.n_states > 10**5
    monkeypatch.setattr(enumeration, "_cells", pytest.fail)  # the first line of the work that is refused
    touched = []

    def unique(x, **options):
        touched.append(len(x))
        return np_unique(x, **options)

    np_unique = np.unique
    monkeypatch.setattr(enumeration.np, "unique", unique)
    with pytest.raises(
        TooLargeError,
        match=rf"{4**10} trajectories in its first 10 of 100 steps, above the limit of",
    ):
        enumerate_trajectories(mdp, *uniform(mdp))
    assert (
        len(touched) == 9 and sum(touched) < 4000
    )  # only the cells on the way, four actions each; the last step is counted, not taken


def test_a_horizon_beyond_all_memory_is_refused_at_once():
    mdp = examples.kakade_two_state(horizon=10**12)
    with pytest.raises(TooLargeError, match="in its first 0 of 1000000000000 steps"):
        enumerate_trajectories(mdp, *uniform(mdp))


# What does not belong to the model.


@pytest.mark.parametrize(("S", "A"), [(1, 3), (3, 1), (2, 3)])
def test_a_policy_for_another_model_is_refused(S, A):
    mdp, policy = examples.referee(), TabularSoftmax(S, A)
    with pytest.raises(
        ValueError,
        match=f"policy has n_states={S}, n_actions={A}, but mdp has n_states=3, n_actions=3",
    ):
        enumerate_trajectories(mdp, policy, np.zeros(S * A))
    with pytest.raises(
        ValueError,
        match=f"policy has n_states={S}, n_actions={A}, but mdp has n_states=3, n_actions=3",
    ):
        count_trajectories(mdp, policy, np.zeros(S * A))


def test_theta_is_never_read_as_a_table_of_probabilities():
    """A batch of one, shape (1, 2), looks like a table of one state and two actions."""
    mdp = examples.bandit(means=[0.0, 1.0])
    with pytest.raises(ValueError, match=r"theta has shape \(1, 2\)"):
        enumerate_trajectories(mdp, TabularSoftmax(1, 2), [[0.25, 0.75]])


def test_bad_parameters_are_refused():
    mdp = examples.referee()
    with pytest.raises(ValueError, match=r"theta has shape \(5,\)"):
        enumerate_trajectories(mdp, TabularSoftmax(3, 3), np.zeros(5))
    with pytest.raises(ValueError, match=r"theta\[2\]=nan"):
        count_trajectories(mdp, TabularSoftmax(3, 3), [0, 0, np.nan, 0, 0, 0, 0, 0, 0])
