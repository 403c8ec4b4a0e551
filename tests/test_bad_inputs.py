"""Bad input is refused, by an error that names the argument and what was wrong with it; nothing is accepted silently.

A row is what is called, the error expected, and a pattern its message must contain: the argument's name and the
offending value. OPEN lists rows that the package does not refuse yet, or refuses obscurely.
"""

import dataclasses
import datetime
import decimal
import json

import numpy as np
import pytest

from reinforce_np import (
    Estimator,
    FileFormatError,
    FiniteMDP,
    LinearSoftmax,
    RewardToGo,
    TabularSoftmax,
    TooLargeError,
    TotalReturn,
    Trajectories,
    Undiscounted,
    algorithms,
    check_gradient,
    compare_routes,
    complex_step,
    concatenate,
    confirm,
    count_trajectories,
    enumerate_trajectories,
    exact,
    examples,
    finite_difference,
    judge,
    numpy_loss,
    random_mdp,
    returns,
    rewards_to_go,
    sample,
    smallest_detectable_bias,
    taylor_test,
    trajectories_needed,
)
from reinforce_np.command_line import main
from reinforce_np.training import SGD, LeastSquares, train

M = examples.referee()
P, ZEROS = TabularSoftmax(3, 3), np.zeros(9)
PROBLEM = M, P, ZEROS
LINEAR = LinearSoftmax(np.ones((3, 3, 2)))
BATCH = sample(*PROBLEM, 4, rng=0)
SHAPE = (3, 3, 2)
NAN, INF = float("nan"), float("inf")
HUGE = 10**400
DAY = np.datetime64("2020-01-01")
OBJECTS = np.full(SHAPE, None)
BATCHED = np.zeros((2, 9))
TABLE = [[[0.9, 0.1], [0.2, 0.8]], [[0.0, 1.0], [0.0, 1.0]]]
SQUARES = {"f": lambda x: np.sum(x**2, axis=-1), "theta": [1.0, 2.0]}


def with_entry(array, index, value, dtype=float):
    array = np.array(array, dtype=dtype)
    array[index] = value
    return array


def mdp(**changes):
    return lambda: FiniteMDP(**{**{f.name: getattr(M, f.name) for f in dataclasses.fields(M)}, **changes})


def tables(**changes):
    usual = dict(
        transition=TABLE, reward=[1.0, 0.0], layout="SAS", initial=0, gamma=0.9, horizon=5, terminal_states=[1]
    )
    return lambda: FiniteMDP.from_tables(**{**usual, **changes})


def call(f, /, *args, **kwargs):
    return lambda: f(*args, **kwargs)


def masked(array):
    return np.ma.masked_array(array, mask=np.arange(np.size(array)).reshape(np.shape(array)) == 0)


ROWS = [
    # FiniteMDP
    (mdp(gamma=1.5), ValueError, r"gamma=1\.5 .*\[0, 1\]"),
    (mdp(gamma=-1e-300), ValueError, r"gamma=-1e-300"),
    (mdp(gamma=NAN), ValueError, r"gamma=nan"),
    (mdp(gamma=INF), ValueError, r"gamma=inf"),
    (mdp(gamma=True), TypeError, r"gamma=True"),
    (mdp(gamma=np.True_), TypeError, r"gamma=np\.True_|gamma=True"),
    (mdp(gamma="0.9"), TypeError, r"gamma='0\.9'"),
    (mdp(gamma=0.5 + 0j), TypeError, r"gamma=\(0\.5\+0j\)"),
    (mdp(gamma=None), TypeError, r"gamma=None"),
    (mdp(gamma=decimal.Decimal("0.5")), TypeError, r"gamma=Decimal\('0\.5'\)"),
    (mdp(gamma=[0.5]), TypeError, r"gamma=\[0\.5\]"),
    (mdp(gamma=np.array([0.5])), TypeError, r"gamma=array\(\[0\.5\]\)"),
    (mdp(horizon=-1), ValueError, r"horizon=-1"),
    (mdp(horizon=4.0), TypeError, r"horizon=4\.0"),
    (mdp(horizon=True), TypeError, r"horizon=True"),
    (mdp(horizon="4"), TypeError, r"horizon='4'"),
    (mdp(horizon=NAN), TypeError, r"horizon=nan"),
    (mdp(horizon=np.array([4])), TypeError, r"horizon=array\(\[4\]\)"),
    (mdp(horizon=DAY), TypeError, r"horizon=np\.datetime64|horizon=numpy\.datetime64"),
    (mdp(probability=with_entry(M.probability, (1, 2, 0), 0.26)), ValueError, r"probability\[1, 2\] sums to 1\.01"),
    (mdp(probability=with_entry(M.probability, (0, 0, 0), -0.75)), ValueError, r"probability\[0, 0, 0\]=-0\.75"),
    (mdp(probability=with_entry(M.probability, (0, 0, 0), NAN)), ValueError, r"probability\[0, 0, 0\]=nan"),
    (mdp(probability=with_entry(M.probability, (2, 1, 1), INF)), ValueError, r"probability\[2, 1, 1\]=inf"),
    (mdp(probability=M.probability + 0j), TypeError, r"probability holds complex128"),
    (mdp(probability=M.probability.astype(str)), TypeError, r"probability holds <U"),
    (mdp(probability=OBJECTS), TypeError, r"probability holds Python objects"),
    (mdp(probability=[[[0.5, 0.5], [1.0]]]), ValueError, r"probability is not a rectangular array"),
    (mdp(probability=np.zeros((0, 3, 2))), ValueError, r"probability has shape \(0, 3, 2\)"),
    (mdp(probability=[]), ValueError, r"probability has shape \(0,\)"),
    (mdp(probability=None), TypeError, r"probability holds Python objects"),
    (mdp(probability={1.0}), TypeError, r"probability holds Python objects"),
    (mdp(probability=np.full(SHAPE, DAY)), TypeError, r"probability holds datetime64"),
    (mdp(next_state=with_entry(M.next_state, (0, 1, 1), 3, int)), ValueError, r"next_state\[0, 1, 1\]=3 .*\[0, 2\]"),
    (mdp(next_state=with_entry(M.next_state, (0, 1, 1), -1, int)), ValueError, r"next_state\[0, 1, 1\]=-1"),
    (mdp(next_state=with_entry(M.next_state, (0, 0, 0), 0.5)), TypeError, r"next_state holds float64"),
    (mdp(next_state=np.full(SHAPE, NAN)), TypeError, r"next_state holds float64"),
    (mdp(next_state=M.next_state > 0), TypeError, r"next_state holds bool"),
    (mdp(next_state=np.full(SHAPE, 2**64 - 1, np.uint64)), ValueError, r"next_state\[0, 0, 0\]=18446744073709551615"),
    (mdp(next_state=M.next_state[..., :1]), ValueError, r"next_state has shape \(3, 3, 1\)"),
    (mdp(reward=with_entry(M.reward, (2, 2, 1), NAN)), ValueError, r"reward\[2, 2, 1\]=nan"),
    (mdp(reward=with_entry(M.reward, (0, 0, 0), -INF)), ValueError, r"reward\[0, 0, 0\]=-inf"),
    (mdp(reward=with_entry(M.reward, (0, 1, 0), -1.1e300)), ValueError, r"reward\[0, 1, 0\]=-1\.1e\+300"),
    (mdp(reward=1j * M.reward), TypeError, r"reward holds complex128"),
    (mdp(reward=M.reward.astype(str)), TypeError, r"reward holds <U"),
    (mdp(reward=M.reward.astype(object)), TypeError, r"reward holds Python objects"),
    (mdp(reward=M.reward.astype("m8[s]")), TypeError, r"reward holds timedelta64"),
    (mdp(reward=M.reward[0]), ValueError, r"reward has shape \(3, 2\)"),
    (mdp(reward=0.0), ValueError, r"reward has shape \(\)"),
    (mdp(terminated=2 * M.terminated), TypeError, r"terminated holds int64"),
    (mdp(terminated=np.full(SHAPE, 0.5)), TypeError, r"terminated holds float64"),
    (mdp(terminated=np.full(SHAPE, "True")), TypeError, r"terminated holds <U4"),
    (mdp(terminated=False), ValueError, r"terminated has shape \(\)"),
    (mdp(initial=[0.5, 0.5, 0.1]), ValueError, r"initial sums to 1\.1"),
    (mdp(initial=[2.0, -1.0, 0.0]), ValueError, r"initial\[0\]=2\.0"),
    (mdp(initial=[1.0, 0.0]), ValueError, r"initial has shape \(2,\)"),
    (mdp(initial=0), ValueError, r"initial has shape \(\)"),
    (mdp(initial=[NAN, 0.5, 0.5]), ValueError, r"initial\[0\]=nan"),
    (mdp(initial=["1", "0", "0"]), TypeError, r"initial holds <U1"),
    (mdp(initial={0: 1.0}), TypeError, r"initial holds Python objects"),
    (call(M.replace, gama=0.5), TypeError, r"'gama'"),
    # from_tables
    (tables(layout="sas"), ValueError, r"layout='sas'"),
    (tables(layout=None), ValueError, r"layout=None"),
    (tables(layout=["SAS"]), ValueError, r"layout=\['SAS'\]"),
    (tables(layout="SSA"), ValueError, r"transition\[1, :, 1\] .* sums to 2\.0"),
    (tables(transition=np.ones((2, 3, 4))), ValueError, r"transition has shape \(2, 3, 4\)"),
    (tables(transition=np.zeros((0, 0, 0))), ValueError, r"transition has shape \(0, 0, 0\)"),
    (tables(transition=with_entry(TABLE, (0, 0, 0), 0.8)), ValueError, r"transition\[0, 0\] .* sums to 0\.9"),
    (tables(transition=with_entry(TABLE, (0, 0, 0), NAN)), ValueError, r"transition\[0, 0, 0\]=nan"),
    (tables(transition=with_entry(TABLE, 0, 0.0)), ValueError, r"transition\[0, 0\] .* sums to 0\.0"),
    (tables(transition=[TABLE[0], TABLE[1][:1]]), ValueError, r"transition is not a rectangular array"),
    (tables(reward=[1.0, 2.0, 3.0]), ValueError, r"reward has shape \(3,\)"),
    (tables(reward=None), TypeError, r"reward holds Python objects"),
    (tables(reward="1"), TypeError, r"reward holds <U1"),
    (tables(initial=2), ValueError, r"initial=2"),
    (tables(initial=-1), ValueError, r"initial=-1"),
    (tables(initial=True), TypeError, r"initial=True"),
    (tables(initial=[0.5, 0.6]), ValueError, r"initial sums to 1\.1"),
    (tables(terminal_states=[2]), ValueError, r"terminal_states\[0\]=2"),
    (tables(terminal_states=[False, True]), TypeError, r"terminal_states holds bool"),
    (tables(terminal_states=1), ValueError, r"terminal_states has 0 axes"),
    (tables(terminated=[[[2]]]), TypeError, r"terminated holds \w+64"),
    (tables(gamma=2), ValueError, r"gamma=2"),
    # policies and theta
    (call(TabularSoftmax, 0, 2), ValueError, r"n_states=0"),
    (call(TabularSoftmax, 2, -1), ValueError, r"n_actions=-1"),
    (call(TabularSoftmax, 2.0, 2), TypeError, r"n_states=2\.0"),
    (call(TabularSoftmax, True, 2), TypeError, r"n_states=True"),
    (call(TabularSoftmax, 2, 2, temperature=0), ValueError, r"temperature=0"),
    (call(TabularSoftmax, 2, 2, temperature=-0.0), ValueError, r"temperature=-0\.0"),
    (call(TabularSoftmax, 2, 2, temperature=1e-101), ValueError, r"temperature=1e-101 .*\[1e-100, 1e100\]"),
    (call(TabularSoftmax, 2, 2, temperature=1e101), ValueError, r"temperature=1e\+101 .*\[1e-100, 1e100\]"),
    (call(TabularSoftmax, 2, 2, temperature=INF), ValueError, r"temperature=inf"),
    (call(TabularSoftmax, 2, 2, temperature=True), TypeError, r"temperature=True"),
    (call(TabularSoftmax, 2, 2, temperature=1j), TypeError, r"temperature=1j"),
    (call(TabularSoftmax, 2, 2, mask=[[1, 1], [0, 0]]), ValueError, r"mask\[1\]"),
    (call(TabularSoftmax, 2, 2, mask=[1, 1]), ValueError, r"mask has shape \(2,\)"),
    (call(TabularSoftmax, 2, 2, mask=[[1, 2], [1, 1]]), TypeError, r"mask holds int64"),
    (call(TabularSoftmax, 2, 2, mask=[["a", "b"]] * 2), TypeError, r"mask holds <U1"),
    (call(LinearSoftmax, np.zeros((3, 3))), ValueError, r"features has 2 axes"),
    (call(LinearSoftmax, np.zeros((3, 3, 0))), ValueError, r"features have shape \(3, 3, 0\)"),
    (call(LinearSoftmax, np.full(SHAPE, NAN)), ValueError, r"features\[0, 0, 0\]=nan"),
    (call(LinearSoftmax, np.full(SHAPE, -INF)), ValueError, r"features\[0, 0, 0\]=-inf"),
    (call(LinearSoftmax, np.full(SHAPE, 1j)), TypeError, r"features holds complex128"),
    (call(LinearSoftmax, OBJECTS), TypeError, r"features holds Python objects"),
    (call(P.probabilities, np.zeros(8)), ValueError, r"theta has shape \(8,\).*n_parameters=9"),
    (call(P.probabilities, 0.0), ValueError, r"theta has shape \(\)"),
    (call(P.probabilities, []), ValueError, r"theta has shape \(0,\)"),
    (call(P.probabilities, with_entry(ZEROS, 4, NAN)), ValueError, r"theta\[4\]=nan"),
    (call(P.probabilities, with_entry(ZEROS, 4, INF)), ValueError, r"theta\[4\]=inf"),
    (call(P.probabilities, with_entry(ZEROS, slice(3), -INF)), ValueError, r"logits\[0\] are all -inf"),
    (call(P.probabilities, ["0"] * 9), TypeError, r"theta holds <U1"),
    (call(P.probabilities, [None] * 9), TypeError, r"theta holds object"),
    (call(P.probabilities, np.full(9, DAY)), TypeError, r"theta holds datetime64"),
    (call(LINEAR.probabilities, [-INF, 0.0]), ValueError, r"theta\[0\]=-inf"),
    (call(LINEAR.probabilities, [1e308, 1e308]), ValueError, r"logits\[0, 0\]=inf"),
    (call(P.contract, ZEROS, np.zeros((2, 3))), ValueError, r"weights have shape \(2, 3\)"),
    (call(P.fisher_information, ZEROS, np.zeros(2)), ValueError, r"state_weights has shape \(2,\)"),
    (call(P.kl, ZEROS, np.full((3, 3), 0.5)), ValueError, r"reference\[0\] sums to 1\.5"),
    (call(P.kl, ZEROS, np.eye(3)), ValueError, r"reference\[0, 1\]=0"),
    (call(exact.gradient, M, TabularSoftmax(2, 3), np.zeros(6)), ValueError, r"policy has n_states=2.*mdp has n_states=3"),
    (call(exact.hessian, M, P, ZEROS + 1j), ValueError, r"theta has shape \(9,\) and dtype complex128"),
    (call(exact.hessian, M, P, BATCHED), ValueError, r"theta has shape \(2, 9\)"),
    (call(exact.hessian, *PROBLEM, columns=0), ValueError, r"columns=0"),
    (call(exact.natural_gradient, *PROBLEM, damping=-1.0), ValueError, r"damping=-1\.0"),
    (call(exact.natural_gradient, *PROBLEM, damping=NAN), ValueError, r"damping=nan"),
    # sampling and enumeration
    (call(sample, *PROBLEM, -1), ValueError, r"n=-1"),
    (call(sample, *PROBLEM, 2.0), TypeError, r"n=2\.0"),
    (call(sample, *PROBLEM, True), TypeError, r"n=True"),
    (call(sample, *PROBLEM, "10"), TypeError, r"n='10'"),
    (call(sample, *PROBLEM, 10, group_size=3), ValueError, r"n=10 .*group_size=3"),
    (call(sample, *PROBLEM, 10, group_size=0), ValueError, r"group_size=0"),
    (call(sample, *PROBLEM, 10, rng=-1), ValueError, r"rng=-1"),
    (call(sample, *PROBLEM, 10, rng=1.0), TypeError, r"rng=1\.0"),
    (call(sample, *PROBLEM, 10, rng="0"), TypeError, r"rng='0'"),
    (call(sample, *PROBLEM, 10, rng=True), TypeError, r"rng=True"),
    (call(sample, *PROBLEM, 10, behaviour=np.full((3, 3), 0.5)), ValueError, r"behaviour\[0\] sums to 1\.5"),
    (call(sample, *PROBLEM, 10, behaviour=np.zeros(8)), ValueError, r"behaviour has shape \(8,\)"),
    (call(sample, M, P, ZEROS + 0j, 10), ValueError, r"theta has shape \(9,\) and dtype complex128"),
    (call(sample, M, P, with_entry(ZEROS, 0, NAN), 10), ValueError, r"theta\[0\]=nan"),
    (call(sample, M, TabularSoftmax(4, 3), np.zeros(12), 10), ValueError, r"policy has n_states=4.*mdp has n_states=3"),
    (call(enumerate_trajectories, *PROBLEM, limit=0), ValueError, r"limit=0"),
    (call(enumerate_trajectories, *PROBLEM, limit=1e6), TypeError, r"limit=1000000\.0"),
    (call(enumerate_trajectories, *PROBLEM, limit=True), TypeError, r"limit=True"),
    (call(enumerate_trajectories, *PROBLEM, limit=1362), TooLargeError, r"1363 trajectories.*limit=1362"),
    (call(enumerate_trajectories, M.replace(horizon=None), P, ZEROS), TooLargeError, r"horizon=None"),
    (call(concatenate, []), ValueError, r"batches=\[\]"),
    (call(dataclasses.replace, BATCH, lengths=np.full(4, 5)), ValueError, r"lengths\[0\]=5"),
    (call(dataclasses.replace, BATCH, rewards=np.zeros((4, 5))), ValueError, r"rewards has shape \(4, 5\)"),
    (call(dataclasses.replace, BATCH, states=np.zeros(4)), ValueError, r"states has 1 axes"),
    # estimators
    (call(Estimator, None), TypeError, r"advantage=None does not fit into this slot"),
    (call(Estimator, RewardToGo(), ratio=RewardToGo()), TypeError, r"ratio=RewardToGo.* does not fit into this slot"),
    (call(Estimator, RewardToGo(), ratio=None), TypeError, r"ratio=None does not fit into this slot"),
    (call(Estimator, RewardToGo(), normaliser=2.0), TypeError, r"normaliser=2\.0 does not fit into this slot"),
    (call(Estimator, RewardToGo(), penalty=0.1), TypeError, r"penalty=0\.1 does not fit into this slot"),
    (call(Estimator, RewardToGo(), penalty=(RewardToGo(),)), TypeError, r"penalty=RewardToGo.* does not fit into this slot"),
    (call(Estimator, TotalReturn(), discounted_score=False), ValueError, r"discounted_score=False"),
    (call(TotalReturn, baseline=[1.0]), TypeError, r"baseline=\[1\.0\]"),
    (call(TotalReturn, baseline=NAN), ValueError, r"baseline=nan"),
    (call(RewardToGo, baseline=[0.0, NAN]), ValueError, r"baseline\[1\]=nan"),
    (call(RewardToGo, baseline=np.zeros(SHAPE)), ValueError, r"baseline has shape \(3, 3, 2\)"),
    (call(algorithms.reinforce_with_baseline, "0"), TypeError, r"baseline holds <U1"),
    (call(algorithms.reinforce().gradient, BATCH.take(slice(0)), *PROBLEM), ValueError, r"trajectories are empty \(n=0\)"),
    (call(algorithms.reinforce_with_baseline([1.0]).gradient, BATCH, *PROBLEM), ValueError, r"baseline covers 1 states"),
    # confirmation
    (call(confirm, algorithms.reinforce(), *PROBLEM, 0), ValueError, r"n=0"),
    (call(confirm, algorithms.reinforce(), *PROBLEM, 10.5), TypeError, r"n=10\.5"),
    (call(confirm, algorithms.reinforce(), *PROBLEM, 10, alpha=0), ValueError, r"alpha=0 "),
    (call(confirm, algorithms.reinforce(), *PROBLEM, 10, alpha=1.0), ValueError, r"alpha=1\.0"),
    (call(confirm, algorithms.reinforce(), *PROBLEM, 10, alpha=NAN), ValueError, r"alpha=nan"),
    (call(confirm, algorithms.reinforce(), *PROBLEM, 10, alpha="small"), TypeError, r"alpha='small'"),
    (call(confirm, algorithms.reinforce(), *PROBLEM, 10, components=[9]), ValueError, r"components\[0\]=9 .*\[0, 8\]"),
    (call(confirm, algorithms.reinforce(), *PROBLEM, 10, components=[-1]), ValueError, r"components\[0\]=-1"),
    (call(confirm, algorithms.reinforce(), *PROBLEM, 10, components=[True] * 9), TypeError, r"components holds bool"),
    (call(confirm, algorithms.reinforce(), *PROBLEM, 10, components=3), ValueError, r"components has 0 axes"),
    (call(confirm, algorithms.reinforce(), M, P, np.zeros(8), 10), ValueError, r"theta has shape \(8,\)"),
    (call(confirm, algorithms.reinforce_with_baseline([1.0]), *PROBLEM, 10), ValueError, r"baseline has shape \(1,\)"),
    (call(smallest_detectable_bias, algorithms.reinforce(), *PROBLEM, 10, miss=0), ValueError, r"miss=0"),
    (call(trajectories_needed, algorithms.reinforce(), *PROBLEM), ValueError, r"bias=None and standard_error=None"),
    (call(trajectories_needed, algorithms.reinforce(), *PROBLEM, bias=0.1, standard_error=0.1), ValueError, r"bias=0\.1 and standard_error=0\.1"),
    (call(trajectories_needed, algorithms.reinforce(), *PROBLEM, bias=-0.1), ValueError, r"bias=-0\.1"),
    (call(trajectories_needed, algorithms.reinforce(), *PROBLEM, standard_error=0), ValueError, r"standard_error=0 "),
    (call(trajectories_needed, algorithms.reinforce(), *PROBLEM, bias=NAN), ValueError, r"bias=nan"),
    # differences
    (call(complex_step, **SQUARES, step=0), ValueError, r"step=0"),
    (call(complex_step, lambda x: x.real.sum(axis=-1), [1.0]), TypeError, r"f returned real values"),
    (call(finite_difference, **SQUARES, step=-1.0), ValueError, r"step=-1\.0"),
    (call(finite_difference, **SQUARES, step=[0.1, 0.0]), ValueError, r"step=\[0\.1 0\. *\]"),
    (call(finite_difference, **SQUARES, step=[0.1]), ValueError, r"step has shape \(1,\)"),
    (call(complex_step, **SQUARES, step=[1e-20] * 3), ValueError, r"step has shape \(3,\)"),
    (call(finite_difference, **SQUARES, batch=0), ValueError, r"batch=0"),
    (call(finite_difference, **SQUARES, components=[2]), ValueError, r"components\[0\]=2"),
    (call(finite_difference, lambda x: np.full(len(x), NAN), [1.0]), ValueError, r"f is not finite"),
    (call(taylor_test, SQUARES["f"], [1.0], [1.0, 2.0]), ValueError, r"gradient has shape \(1,\)"),
    (call(taylor_test, SQUARES["f"], [1.0, NAN], [1.0, 2.0]), ValueError, r"gradient\[1\]=nan"),
    (call(taylor_test, SQUARES["f"], [1.0, 2.0], [1.0, 2.0], direction=[1.0]), ValueError, r"direction has shape \(1,\)"),
    (call(check_gradient, SQUARES["f"], [NAN, 2.0], [1.0, 2.0]), ValueError, r"gradient\[0\]=nan"),
    (call(check_gradient, SQUARES["f"], [2.0], [1.0, 2.0]), ValueError, r"gradient has shape \(1,\)"),
    (call(check_gradient, SQUARES["f"], [2.0, 4.0], [1.0, 2.0], relative=-1), ValueError, r"relative=-1"),
    (call(check_gradient, SQUARES["f"], [2.0, 4.0], [1.0, 2.0], noise=NAN), ValueError, r"noise=nan"),
    (call(check_gradient, SQUARES["f"], [2.0, 4j], [1.0, 2.0]), TypeError, r"gradient holds complex128"),
    (call(check_gradient, SQUARES["f"], np.ones((2, 2)), np.ones((2, 2))), ValueError, r"theta has 2 axes"),
    (call(compare_routes, *PROBLEM, limit=0), ValueError, r"limit=0"),
    (call(compare_routes, M, P, ["0"] * 9), TypeError, r"theta holds <U1"),
    # examples
    (call(examples.bandit, means=[]), ValueError, r"means"),
    (call(examples.bandit, means=[NAN]), ValueError, r"means\[0\]=nan"),
    (call(examples.bandit, means=[0.0], spread=-1.0), ValueError, r"spread=-1\.0"),
    (call(examples.random_walk, n_states=0), ValueError, r"n_states=0"),
    (call(examples.delayed_chain, length=0), ValueError, r"length=0"),
    (call(examples.recycling_robot, alpha=1.5), ValueError, r"alpha=1\.5"),
    (call(examples.frozen_lake, success_rate=2.0), ValueError, r"success_rate=2\.0"),
    (call(examples.frozen_lake, map=["SX", "FG"]), ValueError, r"map.*X"),
    (call(examples.frozen_lake, map=["SF", "G"]), ValueError, r"map"),
    (call(examples.copy_task, max_length=0), ValueError, r"max_length=0"),
    (call(examples.action_features, 0, 2), ValueError, r"n_states=0"),
    (call(examples.referee, gamma=2), ValueError, r"gamma=2"),
    (call(random_mdp, n_states=0), ValueError, r"n_states=0"),
    (call(random_mdp, n_actions=True), TypeError, r"n_actions=True"),
    (call(random_mdp, termination=1.5), ValueError, r"termination=1\.5"),
    (call(random_mdp, reward_density=-0.1), ValueError, r"reward_density=-0\.1"),
    (call(random_mdp, start=3), ValueError, r"start=3"),
    (call(random_mdp, start="middle"), ValueError, r"start='middle'"),
    (call(random_mdp, gamma=1, horizon=None, termination=0), ValueError, r"gamma=1 .*horizon=None .*termination=0"),
    # paths
    (call(FiniteMDP.load, "model.txt"), ValueError, r"path='model\.txt'"),
    (call(FiniteMDP.load, "no/such/model.npz"), FileNotFoundError, r"no/such/model\.npz"),
    (call(M.save, "model"), ValueError, r"path='model'"),
    (call(M.save, "no/such/model.npz"), FileNotFoundError, r"no/such/model\.npz"),
    (call(FiniteMDP.from_gymnasium, M, gamma=0.9, horizon=None), ValueError, r"env="),
    # accepted silently once, or refused obscurely
    (call(check_gradient, SQUARES["f"], [9.0, 9.0], [1.0, 2.0], step=1e-300), ValueError, r"step=1e-300"),
    (call(taylor_test, lambda x: np.full(len(x), NAN), [9.0], [1.0]), ValueError, r"f is not finite"),
    (call(taylor_test, SQUARES["f"], [9.0, 9.0], [1.0, 2.0], noise=NAN), ValueError, r"noise=nan"),
    (call(taylor_test, SQUARES["f"], [9.0, 9.0], [1.0, 2.0], noise=-1), ValueError, r"noise=-1"),
    (call(taylor_test, SQUARES["f"], [9.0, 9.0], [1.0, 2.0], noise="1"), TypeError, r"noise='1'"),
    (call(taylor_test, SQUARES["f"], [9.0, 9.0], [1.0, 2.0], direction=[0.0, 0.0]), ValueError, r"direction"),
    (call(complex_step, lambda x: x.sum(axis=-1) * NAN, [1.0]), ValueError, r"f is not finite"),
    (call(complex_step, lambda x: 1j, [1.0, 2.0]), ValueError, r"f returned"),
    (call(finite_difference, lambda x: x.sum(axis=-1) + 1j, [1.0]), TypeError, r"f returned complex"),
    (call(Estimator, RewardToGo), TypeError, r"advantage=.*RewardToGo"),
    (call(sample, M, P, np.full((3, 3), 1 / 3), 10), ValueError, r"theta has shape \(3, 3\)"),
    (call(enumerate_trajectories, M, P, np.full((3, 3), 1 / 3)), ValueError, r"theta has shape \(3, 3\)"),
    (call(count_trajectories, M, TabularSoftmax(1, 3), np.zeros(3)), ValueError, r"policy .*mdp has"),
    (call(algorithms.reinforce().gradient, BATCH, M, TabularSoftmax(4, 3), np.zeros(12)), ValueError, r"policy .*mdp has"),
    (call(Estimator, RewardToGo(), discounted_score="no"), TypeError, r"discounted_score='no'"),
    (call(Estimator, RewardToGo(), discounted_score=None), TypeError, r"discounted_score=None"),
    (call(algorithms.reinforce, reward_to_go="no"), TypeError, r"reward_to_go='no'"),
    (call(RewardToGo, baseline=[]), ValueError, r"baseline has shape \(0,\)"),
    (call(compare_routes, *PROBLEM, work=-1), ValueError, r"work=-1"),
    (call(compare_routes, *PROBLEM, work=True), TypeError, r"work=True"),
    (call(compare_routes, *PROBLEM, rng=True), TypeError, r"rng=True"),
    (call(random_mdp, rng=True), TypeError, r"rng=True"),
    (call(random_mdp, rng="0"), TypeError, r"rng='0'"),
    (call(TabularSoftmax, HUGE, 2), ValueError, r"n_states=10{20}"),
    (mdp(horizon=np.timedelta64(5)), TypeError, r"horizon=.*timedelta64"),
    (call(TabularSoftmax, 2, 2, temperature=np.timedelta64(5)), TypeError, r"temperature=.*timedelta64"),
    (mdp(probability=masked(M.probability)), TypeError, r"probability.*mask"),
    (mdp(reward=masked(M.reward)), TypeError, r"reward.*mask"),
    (tables(reward=np.ma.masked), TypeError, r"reward.*mask"),
    (call(P.probabilities, masked(ZEROS)), TypeError, r"theta.*mask"),
    (call(P.hessian_contract, ZEROS, np.zeros((3, 1))), ValueError, r"weights has shape \(3, 1\)"),
    (call(P.score_along, ZEROS, np.zeros(9)), ValueError, r"directions has"),
    (mdp(reward=1e308 * np.ones(SHAPE), horizon=10**4), ValueError, r"reward.*1e\+308"),
    (mdp(gamma=HUGE), ValueError, r"gamma=10{20}"),
    (call(TabularSoftmax, 2, 2, temperature=HUGE), ValueError, r"temperature=10{20}"),
    (mdp(gamma=np.ma.masked), (TypeError, ValueError), r"gamma=masked"),
    (call(confirm, algorithms.reinforce(), *PROBLEM, 10, components=[]), ValueError, r"components"),
    (call(confirm, 0, *PROBLEM, 10), TypeError, r"estimator=0"),
    (call(sample, *PROBLEM, 10, executor=4), TypeError, r"executor=4"),
    (call(exact.gradient, *PROBLEM, objective=Undiscounted), TypeError, r"objective="),
    (call(exact.gradient, *PROBLEM, objective=None), TypeError, r"objective=None"),
    (call(exact.gradient, None, P, ZEROS), TypeError, r"mdp=None"),
    (call(exact.fisher_information, M, P, ZEROS + 1j), ValueError, r"theta has shape \(9,\) and dtype complex128"),
    (call(exact.fisher_information, M, P, BATCHED), ValueError, r"theta has shape \(2, 9\)"),
    (call(exact.natural_gradient, M, P, BATCHED), ValueError, r"theta has shape \(2, 9\)"),
    (call(sample, M, P, BATCHED, 10), ValueError, r"theta has shape \(2, 9\).*\(9,\)"),
    (call(enumerate_trajectories, M, TabularSoftmax(4, 3), np.zeros(12)), ValueError, r"policy .*mdp has"),
    (call(count_trajectories, M, P), TypeError, r"theta holds object"),
    (call(trajectories_needed, algorithms.reinforce(), *PROBLEM, bias=[0.1, 0.2]), ValueError, r"bias has shape \(2,\)"),
    (call(trajectories_needed, algorithms.reinforce(), *PROBLEM, bias=1e-300), ValueError, r"bias=1e-300"),
    (call(finite_difference, lambda x: 1.0, [1.0, 2.0]), ValueError, r"f returned"),
    (call(check_gradient, lambda x: x, [1.0, 2.0], [1.0, 2.0]), (TypeError, ValueError), r"f returned"),
    (call(check_gradient, 3, [1.0], [1.0]), TypeError, r"f=3"),
]  # fmt: skip


ROWS += [
    (call(count_trajectories, M, None, ZEROS), ValueError, r"theta"),
    (call(examples.frozen_lake, slippery="no"), TypeError, r"slippery='no'"),
    (call(examples.cliff, slippery=NAN), TypeError, r"slippery=nan"),
    (call(examples.river_swim, large="0.5"), TypeError, r"large='0\.5'"),
    (call(examples.river_swim, small=True), TypeError, r"small=True"),
    (call(examples.recycling_robot, wait_reward=True), TypeError, r"wait_reward=True"),
    (call(exact.gradient, M, None, ZEROS), TypeError, r"policy=None"),
    (call(exact.gradient, P, M, ZEROS), TypeError, r"mdp="),
    (call(trajectories_needed, algorithms.reinforce(), *PROBLEM, standard_error=1e-200), ValueError, r"standard_error=1e-200"),
    (call(algorithms.reinforce().gradient, None, *PROBLEM), TypeError, r"trajectories=None"),
    (call(concatenate, [1]), TypeError, r"batches"),
    (call(examples.frozen_lake, map=4), TypeError, r"map=4"),
    (call(P.contract, ZEROS, np.full((3, 3), "a")), TypeError, r"weights hold"),
]  # fmt: skip


def ragged():
    wide = {name: [[0, 0], [0]] for name in ("states", "actions", "rewards", "log_probabilities")}
    return Trajectories(
        **wide, **{name: [0, 0] for name in ("lengths", "terminated", "truncated", "final_states", "groups")}
    )


def training(estimator, **options):
    return lambda: train((M, P), estimator, SGD(0.1), iterations=1, batch_size=2, rng=0, **options)


ROWS += [
    (tables(terminal_states=np.array([False, True])), TypeError, r"terminal_states holds bool.*np.flatnonzero"),
    (tables(terminal_states=1), ValueError, r"terminal_states has 0 axes.*\[1\]"),
    (ragged, ValueError, r"states is not a rectangular array.*give every row the same length"),
    (call(returns, [1.0, 2.0], 0.5), ValueError, r"rewards has 1 axes"),
    (call(rewards_to_go, [[1.0], [1.0, 2.0]], 0.5), ValueError, r"rewards is not a rectangular array"),
    (call(rewards_to_go, [["1"]], 0.5), TypeError, r"rewards holds <U1"),
    (call(returns, np.ones((1, 2)), "0.5"), TypeError, r"gamma='0.5'"),
    (call(rewards_to_go, np.ones((1, 2)), 1.5), ValueError, r"gamma=1.5"),
    (call(judge, algorithms.reinforce, *PROBLEM), TypeError, r"estimator=reinforce takes no arguments: call it, reinforce\(\)"),
    (call(judge, lambda t, theta: 0.0, *PROBLEM), ValueError, r"shape \(\).*numpy_loss, torch_loss or jax_loss"),
    (training(algorithms.rloo), TypeError, r"estimator=rloo takes 0 arguments; call it, rloo\(\)"),
    (training(algorithms.ppo), TypeError, r"estimator=ppo takes 1 arguments; .*critic=LeastSquares\(\)"),
    (training(algorithms.reinforce, critic=LeastSquares()), TypeError, r"estimator=reinforce takes 0.*with a critic it is a function of V"),
    (training(lambda t, theta: theta, critic=LeastSquares()), TypeError, r"takes 2 .*with a critic it is a function of V"),
    (training(algorithms.rloo()), ValueError, r"ModelSource\(mdp, policy, group_size=2\)"),
    (call(judge, lambda t, theta: None, *PROBLEM), ValueError, r"returned None.*return statement missing"),
    (call(judge, numpy_loss(lambda log_probs, batch: None), *PROBLEM), TypeError, r"returned None.*return statement missing"),
    (lambda: BATCH.observations, AttributeError, r"no attribute 'observations'; it has states, actions, rewards, .*, and mask"),
    (training(lambda t, theta, problem, more: theta), TypeError, r"takes 4 arguments.*f\(trajectories, theta, problem\)"),
]  # fmt: skip


def test_lists_are_rewards_too():
    assert returns([[1, 2, 4], [0, 0, 4]], 0.5).tolist() == [3.0, 1.0]
    assert rewards_to_go([[1, 2, 4], [0, 0, 4]], 0.5).tolist() == [[3.0, 4.0, 4.0], [1.0, 2.0, 4.0]]


def test_a_function_of_a_baseline_that_was_given_the_problem_says_so():
    with pytest.raises(TypeError) as refusal:
        judge(algorithms.reinforce_with_baseline, *PROBLEM)
    assert "reinforce_with_baseline, which takes one argument and was given the Problem" in refusal.value.__notes__[0]


def test_a_loss_that_was_not_wrapped_is_recognised():
    def loss(log_probabilities, batch):
        return -(log_probabilities * batch.rewards).sum()

    with pytest.raises(AttributeError) as refusal:
        judge(loss, *PROBLEM)
    assert "goes through numpy_loss, torch_loss or jax_loss" in refusal.value.__notes__[0]


def named(rows):
    return [pytest.param(*row, id=f"{i}: {row[2]}") for i, row in enumerate(rows)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("called", "error", "pattern"), named(ROWS))
def test_bad_input_is_refused_by_name_and_value(called, error, pattern):
    with pytest.raises(error, match=f"(?s){pattern}"):
        called()


@pytest.mark.parametrize(
    "date",
    [DAY, datetime.date(2020, 1, 1), {}, object(), b"1", lambda: 0, slice(3)],
    ids=lambda thing: type(thing).__name__,
)
@pytest.mark.parametrize("name", ["gamma", "horizon", "probability", "next_state", "reward", "terminated", "initial"])
def test_things_that_are_no_numbers_at_all(name, date):
    with pytest.raises((TypeError, ValueError), match=name):
        mdp(**{name: date})()


def test_what_was_given_is_left_alone():
    """Checking must not write into the caller's arrays, nor keep them."""
    reward = np.array(M.reward)
    model = M.replace(reward=reward)
    reward[0, 0, 0] = 99.0
    assert model.reward[0, 0, 0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        model.reward[0, 0, 0] = 99.0
    assert reward.flags.writeable


# --- the command line -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of every bad kind; their names are the values of the options below."""
    path = tmp_path_factory.mktemp("files")
    arrays = {
        "short": np.zeros(3), "wide": np.zeros((3, 3)), "nan": np.full(9, NAN), "complex": np.zeros(9, complex),
        "words": np.array(["0"] * 9), "dates": np.full(9, DAY), "flat": np.zeros((3, 3)), "none": np.zeros((3, 3, 0)),
        "small": np.zeros((2, 3, 4)), "infinite": np.full((3, 3, 2), INF),
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    np.save(path / "objects.npy", np.array([None] * 9), allow_pickle=True)
    texts = {
        "empty.npy": "", "empty.json": "", "empty.npz": "", "broken.json": "{", "null.json": "null", "object.json": '{"a": 1}',
        "ragged.json": "[[1], [1, 2]]", "words.json": '["0"]', "deep.json": "[" * 100_000, "constant.json": "[NaN]",
        "text.npz": "not an archive", "text.npy": "not an array",
    }  # fmt: skip
    for name, text in texts.items():
        (path / name).write_text(text)
    M.save(path / "good.json")
    good = json.loads((path / "good.json").read_text())
    changes = {
        "gamma.json": {"gamma": 1.5}, "horizon.json": {"horizon": -1}, "initial.json": {"initial": [1.0, 0.5, 0.0]},
        "key.json": {"discount": 0.9}, "table.json": {"table": good["table"][1:]}, "format.json": {"format": "other"},
        "version.json": {"version": 2}, "boolean.json": {"gamma": True}, "count.json": {"n_states": 10**9},
    }  # fmt: skip
    for name, change in changes.items():
        (path / name).write_text(json.dumps({**good, **change}))
    return path


LINES = [
    (["--mdp", "refere"], r"--mdp refere.*did you mean referee"),
    (["--mdp", "nosuch"], r"--mdp nosuch.*reinforce-np examples"),
    (["--mdp", ""], r"--mdp "),
    (["--mdp", "nosuch.json"], r"nosuch\.json"),
    (["--mdp", "nosuch.npz"], r"nosuch\.npz"),
    (["--mdp", "gymnasium:"], r"--mdp gymnasium:.*name an environment"),
    *[(["--mdp", f"{name}"], rf"{name.split('.')[0]}\.\w+: .*{said}") for name, said in {
        "empty.json": "empty", "empty.npz": "empty", "broken.json": "JSON", "null.json": "null", "object.json": "format",
        "deep.json": "deep", "text.npz": "archive", "gamma.json": r"gamma=1\.5", "horizon.json": "horizon=-1",
        "initial.json": r"initial sums to 1\.5", "key.json": "'discount'", "table.json": "table.*8 lines.*9",
        "format.json": "'other'", "version.json": "version 2", "boolean.json": "gamma.*True", "count.json": "bytes",
    }.items()],
    (["--gamma", "1.5"], r"gamma=1\.5"),
    (["--gamma=-0.1"], r"gamma=-0\.1"),
    (["--gamma", "nan"], r"--gamma: 'nan'"),
    (["--gamma", "1e400"], r"--gamma: '1e400'"),
    (["--gamma", "1j"], r"--gamma: '1j'"),
    (["--gamma", ""], r"--gamma: ''"),
    (["--horizon=-1"], r"--horizon: '-1'"),
    (["--horizon", "4.0"], r"--horizon: '4\.0'"),
    (["--horizon", "inf"], r"--horizon: 'inf'"),
    (["--horizon", "nan"], r"--horizon: 'nan'"),
    (["--seed=-1"], r"--seed: '-1'"),
    (["--seed", "none"], r"--seed: 'none'"),
    (["--trajectories", "0"], r"--trajectories: '0'"),
    (["--trajectories=-5"], r"--trajectories: '-5'"),
    (["--trajectories", "1e5"], r"--trajectories: '1e5'"),
    (["--alpha", "0"], r"--alpha 0"),
    (["--alpha", "1"], r"--alpha 1"),
    (["--alpha=-1e-6"], r"--alpha -1e-06"),
    (["--alpha", "nan"], r"--alpha: 'nan'"),
    (["--policy", "neural"], r"--policy.*'neural'"),
    (["--theta", "ones"], r"--theta ones"),
    (["--theta", ""], r"--theta "),
    *[(["--theta", name], rf"--theta \S*{name}.*{said}") for name, said in {
        "short.npy": r"\(3,\)", "wide.npy": r"\(3, 3\)", "nan.npy": r"\[0\]=nan", "complex.npy": "complex128",
        "words.npy": "<U1", "dates.npy": "datetime64", "objects.npy": "objects", "empty.npy": "no array",
        "text.npy": "no array", "empty.json": "no array", "broken.json": "no array", "null.json": "objects",
        "object.json": "objects", "ragged.json": "rectangular", "words.json": "<U1", "deep.json": "recursion",
        "constant.json": r"\[0\]=nan", "good.json": "objects",
    }.items()],
    (["--theta", "nosuch.npy"], r"nosuch\.npy"),
    (["--features", "random:3"], r"--features random:3 needs --policy linear"),
    *[(["--policy", "linear", "--features", name], rf"--features {name}") for name in ("random:0", "random:", "random:-3", "random:x", "own", "3")],
    *[(["--policy", "linear", "--features", name], rf"{said}") for name, said in {
        "flat.npy": r"--features \S*flat.npy has shape \(3, 3\)", "small.npy": r"--features \S*small.npy has shape \(2, 3, 4\)",
        "infinite.npy": r"--features \S*infinite.npy\[0, 0, 0\]=inf", "none.npy": r"features have shape \(3, 3, 0\)",
        "objects.npy": r"--features \S*objects.npy.*objects", "nosuch.npy": r"nosuch\.npy",
    }.items()],
    (["--policy", "linear", "--features", ""], "--features "),
    (["--horizon", "1_0"], "--horizon: '1_0'"),
    (["--horizon", "\u0663"], "--horizon: '\u0663'"),
    (["--colour"], r"--colour"),
    (["extra"], r"extra"),
    (["--theta", "truths.json"], "--theta .*truths.json"),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "pattern"), [pytest.param(*row, id=ascii(" ".join(row[0]))) for row in LINES])
def test_bad_usage_ends_with_2_and_says_why(capsys, monkeypatch, folder, argv, pattern):
    monkeypatch.chdir(folder)
    (folder / "truths.json").write_text(json.dumps([True] * 9))
    few = [] if "--trajectories" in " ".join(argv) else ["--trajectories", "10"]  # for those that are accepted
    try:
        code = main(["check", *few, *argv])
    except SystemExit as stop:  # argparse
        code = stop.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("reinforce-np")
    with pytest.raises(FileFormatError, match=f"(?s){pattern}"):
        raise FileFormatError(err)


@pytest.mark.parametrize("argv", [["chek"], ["examples", "referee"]], ids=" ".join)
def test_bad_commands(capsys, argv):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert "usage:" in err
    assert argv[-1] in err


def test_no_command_is_help_and_2(capsys):
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out.startswith("usage: reinforce-np")
    assert "estimators" in out
    assert err == ""


def test_trajectories_are_a_record_of_arrays():
    fields = {f.name: getattr(BATCH, f.name) for f in dataclasses.fields(BATCH)}
    with pytest.raises(TypeError, match="groups"):
        Trajectories(**{name: value for name, value in fields.items() if name != "groups"})
