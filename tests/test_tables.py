"""Tables of other libraries: dense arrays and Gymnasium."""

import inspect
import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforce_np import mdp, tables
from reinforce_np.tables import dense as dense_tables
from reinforce_np.tables import toy_text

FIELDS = ("probability", "next_state", "reward", "terminated")
REWARD_SHAPES = ["number", "S", "SA", "full", "entering", "leaving", "per action", "leaving and entering"]
SETTINGS = settings(max_examples=40, deadline=None, derandomize=True, database=None)


# --- the slow, obvious way, in nested loops -----------------------------------------------------------------------


def in_layout(canonical, layout):
    """The array canonical[s, a, n] in the axis order of `layout`."""
    if layout == "SAS":
        return canonical
    return np.swapaxes(canonical, 0, 1) if layout == "ASS" else np.swapaxes(canonical, 1, 2)


def entry(array, s, a, n, layout):
    """Entry of a three-axis array in `layout`, an axis of length one standing for all of its entries."""
    index = {"SAS": (s, a, n), "ASS": (a, s, n), "SSA": (s, n, a)}[layout]
    return array[tuple(0 if length == 1 else i for i, length in zip(index, array.shape, strict=True))]


def reward_entry(reward, s, a, n, layout):
    reward = np.asarray(reward)
    if reward.ndim == 3:
        return entry(reward, s, a, n, layout)
    return reward[(s, a)[: reward.ndim]]


def outcomes_by_loops(transition, reward, layout, terminal_states=(), terminated=None):
    """[s][a] -> list of (probability, next_state, reward, terminated)."""
    n_states = transition.shape[0 if layout != "ASS" else 1]
    n_actions = transition.size // n_states**2
    table = []
    for s in range(n_states):
        table.append([])
        for a in range(n_actions):
            row = []
            for n in range(n_states):
                p = transition[{"SAS": (s, a, n), "ASS": (a, s, n), "SSA": (s, n, a)}[layout]]
                if p > 0:
                    ends = n in terminal_states or (terminated is not None and bool(entry(terminated, s, a, n, layout)))
                    row.append((float(p), n, float(reward_entry(reward, s, a, n, layout)), ends))
            table[-1].append(row or [(1.0, s, 0.0, True)])
    return table


def outcomes(fields):
    """The same list from the arrays, with the padding checked and removed."""
    table = []
    n_states, n_actions, n_outcomes = fields["probability"].shape
    for s in range(n_states):
        table.append([])
        for a in range(n_actions):
            row = [tuple(fields[name][s, a, k].item() for name in FIELDS) for k in range(n_outcomes)]
            used = [o for o in row if o[0] > 0]
            assert row == used + [(0.0, s, 0.0, False)] * (n_outcomes - len(used))
            table[-1].append(used)
    assert n_outcomes == max(len(row) for actions in table for row in actions)
    return table


def random_problem(rng, n_states, n_actions):
    """Canonical P[s, a, n] with zeros, dyadic so that sums are exact, and R[s, a, n]."""
    P = np.zeros((n_states, n_actions, n_states))
    for s, a in itertools.product(range(n_states), range(n_actions)):
        for n in rng.integers(n_states, size=4):
            P[s, a, n] += 0.25
    return P, rng.integers(-5, 6, size=P.shape) / 2


def reward_of_shape(R, shape, layout):
    return {
        "number": 1.5,
        "S": R[:, 0, 0],
        "SA": R[:, :, 0],
        "full": in_layout(R, layout),
        "entering": in_layout(R[:1, :1, :], layout),
        "leaving": in_layout(R[:, :1, :1], layout),
        "per action": in_layout(R[:1, :, :1], layout),
        "leaving and entering": in_layout(R[:, :1, :], layout),
    }[shape]


# --- dense arrays: agreement with the loops -----------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(1, 3), (2, 2), (3, 2), (4, 4), (3, 1), (5, 3)])
@pytest.mark.parametrize("layout", ["SAS", "ASS", "SSA"])
@pytest.mark.parametrize("shape", REWARD_SHAPES)
def test_dense_agrees_with_loops(shape, layout, sizes):
    P, R = random_problem(np.random.default_rng(7), *sizes)
    transition, reward = in_layout(P, layout), reward_of_shape(R, shape, layout)
    fields = tables.from_dense(transition, reward, layout, 0)
    assert outcomes(fields) == outcomes_by_loops(transition, reward, layout)


@SETTINGS
@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from(["SAS", "ASS", "SSA"]), st.integers(0, 2**32), st.data())
def test_dense_with_terminations_agrees_with_loops(n_states, n_actions, layout, seed, data):
    rng = np.random.default_rng(seed)
    P, R = random_problem(rng, n_states, n_actions)
    terminal_states = data.draw(st.sets(st.integers(0, n_states - 1)), label="terminal_states")
    empty = data.draw(st.sets(st.sampled_from(sorted(terminal_states))) if terminal_states else st.just(set()))
    P[list(empty), 0] = 0.0
    full = rng.random(P.shape) < 0.3
    choices = [None, in_layout(full, layout), in_layout(full[:1, :1], layout), in_layout(full[:, :, :1], layout)]
    terminated = data.draw(st.sampled_from(choices), label="terminated")
    transition, reward = in_layout(P, layout), in_layout(R, layout)
    fields = tables.from_dense(transition, reward, layout, 0, terminal_states, terminated)
    assert outcomes(fields) == outcomes_by_loops(transition, reward, layout, terminal_states, terminated)


def test_dense_fields_make_a_model():
    P, R = random_problem(np.random.default_rng(1), 4, 3)
    model = mdp.FiniteMDP.from_tables(P, R, layout="SAS", initial=2, gamma=0.5, horizon=None)
    assert model.initial.tolist() == [0, 0, 1, 0]
    np.testing.assert_allclose(model.expected_reward, (P * R).sum(axis=2), rtol=0, atol=1e-15)


def test_dense_takes_a_list_of_matrices_and_leaves_its_arguments_alone():
    P = [np.array([[0.5, 0.5], [0.0, 0.0]])] * 3
    reward = np.array([1.0, 9.0])
    fields = tables.from_dense(P, reward, "ASS", [0.25, 0.75], terminal_states=(1,))
    assert fields["probability"].shape == (2, 3, 2)
    assert outcomes(fields)[1] == [[(1.0, 1, 0.0, True)]] * 3
    assert fields["initial"].tolist() == [0.25, 0.75]
    assert P[0].tolist() == [[0.5, 0.5], [0.0, 0.0]]


def test_layout_decides_when_all_axes_are_equal():
    P, R = random_problem(np.random.default_rng(3), 3, 3)
    answers = [outcomes(tables.from_dense(in_layout(P, x), in_layout(R, x), x, 0)) for x in dense_tables.LAYOUTS]
    assert answers[0] == answers[1] == answers[2]
    cyclic = np.roll(np.eye(3), 1, axis=1)[None].repeat(3, axis=0)  # a valid SAS and ASS array of two meanings
    sas, ass = (tables.from_dense(cyclic, 0.0, x, 0)["next_state"] for x in ("SAS", "ASS"))
    assert sas[0, :, 0].tolist() == [1, 2, 0]
    assert ass[0, :, 0].tolist() == [1, 1, 1]


def test_dense_padding_stays_in_its_state():
    P = np.array([[[0.0, 1.0]], [[0.5, 0.5]]])
    fields = tables.from_dense(P, 0.0, "SAS", 0)
    assert fields["next_state"].tolist() == [[[1, 0]], [[0, 1]]]


@pytest.mark.parametrize("initial", [1, np.int64(1), np.array(1), [0.0, 1.0]])
def test_dense_initial(initial):
    assert tables.from_dense(np.eye(2)[:, None], 0.0, "SAS", initial)["initial"].tolist() == [0.0, 1.0]


def test_dense_is_vectorised_enough():
    n_states, n_actions = 300, 40
    P = np.zeros((n_states, n_actions, n_states))
    P[:, :, :2] = 0.5
    fields = tables.from_dense(P, 1.0, "SAS", 0)
    assert fields["probability"].shape == (n_states, n_actions, 2)
    assert fields["next_state"][5, 5].tolist() == [0, 1]


# --- dense arrays: refusals ---------------------------------------------------------------------------------------

STAY = np.eye(3)[:, None].repeat(2, axis=1)  # (S, A, S) = (3, 2, 3)


class Sparse:
    """What scipy.sparse matrices have in common."""

    def toarray(self):
        return np.eye(3)


def dense(**changes):
    arguments = {"transition": STAY, "reward": 0.0, "layout": "SAS", "initial": 0}
    return tables.from_dense(**{**arguments, **changes})


def changed(index, value, array=STAY):
    array = np.array(array, dtype=np.result_type(array, type(value)))
    array[index] = value
    return array


REFUSED = [
    ({"layout": "SSS"}, ValueError, r"layout='SSS' is unknown; pass \"SAS\", \"ASS\" or \"SSA\""),
    ({"layout": ["SAS"]}, ValueError, r"layout=\['SAS'\] is unknown"),
    ({"layout": None}, ValueError, "layout=None is unknown"),
    ({"transition": changed((1, 0, 1), -0.25)}, ValueError, r"transition\[1, 0, 1\]=-0.25 is not a probability"),
    ({"transition": changed((1, 0, 1), np.nan)}, ValueError, r"transition\[1, 0, 1\]=nan is not a finite number"),
    ({"transition": changed((1, 0, 1), 1j)}, TypeError, "transition holds complex128 values"),
    ({"transition": [["x"]]}, TypeError, "transition holds <U1 values"),
    ({"transition": [[[1.0], [1.0, 0.0]]]}, ValueError, "transition is not a rectangular array"),
    ({"transition": np.eye(3)}, ValueError, r'transition has shape \(3, 3\); layout="SAS" means \(S, A, S\)'),
    ({"transition": STAY, "layout": "ASS"}, ValueError, r'shape \(3, 2, 3\); layout="ASS".* fits layout="SAS"'),
    ({"transition": np.ones((2, 3, 4))}, ValueError, r"shape \(2, 3, 4\); .* the same S twice"),
    ({"transition": np.ones((0, 2, 0))}, ValueError, r"shape \(0, 2, 0\); .* no axis of length zero"),
    ({"transition": changed((2, 1, 2), 0.75)}, ValueError, r"transition\[2, 1\] \(state 2, action 1\) sums to 0.75"),
    ({"transition": np.where(STAY, [[[0.5], [0.75]]], 0.0)}, ValueError, r"\[0, 0\].* sums to 0.5, the worst of 6"),
    ({"transition": changed((2, 1, 2), 1 - 2e-9)}, ValueError, r"transition\[2, 1\].*tolerance 1e-09\)"),
    (
        {"transition": in_layout(changed((2, 1, 2), 0.75), "ASS"), "layout": "ASS"},
        ValueError,
        r"transition\[1, 2\] \(state 2, action 1\) sums to 0.75",
    ),
    (
        {"transition": in_layout(changed((2, 1, 2), 0.75), "SSA"), "layout": "SSA"},
        ValueError,
        r"transition\[2, :, 1\] \(state 2, action 1\) sums to 0.75.* divide by the sum yourself",
    ),
    ({"transition": changed((2, 1, 2), 0.0)}, ValueError, r"transition\[2, 1\].* sums to 0.0.*put state 2 in terminal"),
    (
        {"transition": changed((2, 1, 2), 0.5), "terminal_states": [2]},
        ValueError,
        r"transition\[2, 1\].* sums to 0.5",
    ),
    ({"transition": Sparse()}, TypeError, r"transition is a sparse Sparse; pass transition.toarray\(\)"),
    ({"transition": [np.eye(3), Sparse()], "layout": "ASS"}, TypeError, r"transition\[1\] is a sparse .*toarray\(\)"),
    ({"transition": np.array([Sparse()]), "layout": "ASS"}, TypeError, r"transition\[0\] is a sparse .*toarray\(\)"),
    ({"transition": np.array(None)}, TypeError, "transition holds Python objects"),
    ({"reward": Sparse()}, TypeError, r"reward is a sparse Sparse; pass reward.toarray\(\)"),
    (
        {"reward": [0.0, 1.0]},
        ValueError,
        r"reward has shape \(2,\); with S=3 and A=2 .*\(S,\).*\(S, A\), or \(S, A, S\)",
    ),
    ({"reward": np.zeros((2, 3))}, ValueError, r"reward has shape \(2, 3\).*; transpose it"),
    ({"reward": np.zeros((3, 3))}, ValueError, r"reward has shape \(3, 3\)"),
    ({"reward": np.zeros((1, 3))}, ValueError, r"reward has shape \(1, 3\)"),
    (
        {"reward": np.zeros((2, 3, 3))},
        ValueError,
        r"reward has shape \(2, 3, 3\).* a number, \(S,\), \(S, A\) or \(S, A",
    ),
    ({"reward": np.zeros((1, 1, 1, 3))}, ValueError, r"reward has shape \(1, 1, 1, 3\)"),
    ({"reward": [0.0, np.nan, 0.0]}, ValueError, r"reward\[1\]=nan is not a finite number"),
    ({"reward": [0.0, np.inf, 0.0]}, ValueError, r"reward\[1\]=inf is not a finite number"),
    ({"reward": 1j}, TypeError, "reward holds complex128 values"),
    ({"reward": None}, TypeError, "reward holds Python objects"),
    ({"terminated": [True, False, False]}, ValueError, r"terminated has shape \(3,\).*pass terminal_states"),
    ({"terminated": np.ones((2, 3, 3))}, ValueError, r"terminated has shape \(2, 3, 3\); .* must be \(S, A, S\)"),
    ({"terminated": np.full((1, 1, 3), 0.5)}, TypeError, "terminated holds float64 values"),
    ({"terminal_states": [-1]}, ValueError, r"terminal_states\[0\]=-1 is out of range; it must be in \[0, 2\]"),
    ({"terminal_states": [0, 3]}, ValueError, r"terminal_states\[1\]=3 is out of range"),
    ({"terminal_states": 2}, ValueError, r"terminal_states has 0 axes"),
    ({"terminal_states": [False, False, True]}, TypeError, "terminal_states holds bool values"),
    ({"initial": 3}, ValueError, r"initial=3 is out of range; it must be a state in \[0, 2\]"),
    ({"initial": -1}, ValueError, r"initial=-1 is out of range; it must be a state in \[0, 2\]"),
    ({"initial": True}, TypeError, "initial=True is not a whole number"),
    ({"initial": 0.5}, TypeError, "initial=0.5 is not a whole number"),
    ({"initial": None}, TypeError, "initial holds Python objects"),
    ({"initial": [0.5, 0.5]}, ValueError, r"initial has shape \(2,\); it must have shape \(3,\)"),
    ({"initial": [0.5, 0.25, 0.0]}, ValueError, "initial sums to 0.75"),
    ({"initial": [1.5, -0.5, 0.0]}, ValueError, r"initial\[0\]=1.5 is not a probability"),
]


@pytest.mark.parametrize(("changes", "error", "message"), REFUSED, ids=[message for *_, message in REFUSED])
def test_dense_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        dense(**changes)


def test_dense_accepts_what_the_refusals_are_changed_from():
    assert dense()["probability"].shape == (3, 2, 1)


def test_sums_within_the_tolerance_are_kept_as_they_are():
    assert dense(transition=changed((2, 1, 2), 1 - 1e-10))["probability"][2, 1, 0] == 1 - 1e-10


# --- Gymnasium tables without Gymnasium ---------------------------------------------------------------------------


class Table:
    """The least that `from_gymnasium` asks of an environment."""

    spec = None

    def __init__(self, P, initial=(1.0,), **attributes):
        self.P, self.initial_state_distrib = P, np.array(initial)
        self.__dict__.update(attributes)

    @property
    def unwrapped(self):
        return self


def one_row(*row):
    return Table({0: {0: list(row)}})


def wrapped(name, env, **attributes):
    """A wrapper around `env` whose class is called `name`."""
    wrapper = type(name, (), {})()
    wrapper.__dict__.update({"env": env, "unwrapped": env.unwrapped, "spec": env.spec, **attributes})
    return wrapper


def test_duplicates_merge_only_when_reward_and_termination_agree():
    env = one_row((0.25, 0, 1, False), (0.25, 0, 1.0, False), (0.25, np.int64(0), 2, False), (0.25, 0, 1, True))
    fields, time_limit = tables.from_gymnasium(env)
    assert outcomes(fields) == [[[(0.5, 0, 1.0, False), (0.25, 0, 2.0, False), (0.25, 0, 1.0, True)]]]
    assert time_limit is None
    assert [fields[name].dtype for name in FIELDS] == [np.float64, np.intp, np.float64, np.bool_]


def test_outcomes_of_probability_zero_are_dropped():
    fields, _ = tables.from_gymnasium(one_row((0.0, 0, 1, False), (1, 0, 2, np.False_), (0, 0, 5, True)))
    assert outcomes(fields) == [[[(1.0, 0, 2.0, False)]]]


def test_table_of_lists():
    fields, _ = tables.from_gymnasium(
        Table([[[(1.0, 1, 0, False)]], [[(0.5, 0, 1, False), [0.5, 1, 1, True]]]], (0, 1))
    )
    assert outcomes(fields) == [[[(1.0, 1, 0.0, False)]], [[(0.5, 0, 1.0, False), (0.5, 1, 1.0, True)]]]
    assert fields["initial"].tolist() == [0.0, 1.0]


STAYING = (1.0, 0, 0.0, False)
REFUSED_TABLES = [
    (one_row((1.5, 0, 0, False), (-0.5, 0, 0, False)), ValueError, r"probability in P\[0, 0, 0\]=1.5 is not a prob"),
    (one_row((1.25, 0, 0, False), (-0.25, 0, 0, False)), ValueError, r"probability in P\[0, 0, 0\]=1.25"),
    (one_row((0.5, 0, 0, False), (np.nan, 0, 0, False)), ValueError, r"probability in P\[0, 0, 1\]=nan"),
    (one_row((0.5, 0, 0, False)), ValueError, r"P\[0, 0\] sums to 0.5"),
    (one_row((0.0, 0, 0, False)), ValueError, r"P\[0, 0\] sums to 0"),
    (one_row((1.0, 1, 0, False)), ValueError, r"next_state in P\[0, 0, 0\]=1 is out of range; it must be in \[0, 0\]"),
    (one_row((1.0, -1, 0, False)), ValueError, r"next_state in P\[0, 0, 0\]=-1 is out of range"),
    (one_row((1.0, 0.5, 0, False)), TypeError, "next_state in P holds float64 values"),
    (one_row((1.0, 0, np.inf, False)), ValueError, r"reward in P\[0, 0, 0\]=inf"),
    (one_row((1.0, 0, "1", False)), TypeError, "reward in P holds <U1 values"),
    (one_row((1.0, 0, [1], False)), ValueError, r"reward in P has entries of shape \(1,\)"),
    (one_row((0.5, 0, [1], False), (0.5, 0, 1, False)), ValueError, "reward in P cannot be read"),
    (one_row((1.0, 0, 0, 2)), TypeError, "terminated in P holds int64 values"),
    (one_row((1.0, 0, 0)), ValueError, r"P\[0\]\[0\]\[0\]=\(1.0, 0, 0\) is not \(probability, next_state"),
    (one_row(7), ValueError, r"P\[0\]\[0\]\[0\]=7 is not"),
    (one_row(), ValueError, r"P\[0\]\[0\]=\[\] is not a list of outcomes"),
    (Table({0: {0: None}}), ValueError, r"P\[0\]\[0\]=None is not a list"),
    (Table({0: {}}), ValueError, r"P\[0\] is empty"),
    (Table({}), ValueError, "P is empty"),
    (Table(None), ValueError, "P is not a table indexed from 0"),
    (Table({1: {0: [STAYING]}}), ValueError, r"P is not a table indexed from 0 \(KeyError: 0\)"),
    (Table({0: {1: [STAYING]}}), ValueError, r"P\[0\] is not a table indexed from 0"),
    (
        Table({0: {0: [STAYING]}, 1: {0: [STAYING], 1: [STAYING]}}, (1, 0)),
        ValueError,
        r"P\[1\] has 2 actions, but P\[0\]",
    ),
    (Table({0: {0: [STAYING]}}, (np.nan,)), ValueError, "initial_state_distrib=nan.* the map has no start"),
    (Table({0: {0: [STAYING]}}, (0.5, 0.5)), ValueError, r"initial_state_distrib has shape \(2,\)"),
    (Table({0: {0: [STAYING]}}, (0.5,)), ValueError, "initial_state_distrib sums to 0.5"),
    (Table({0: {0: [STAYING]}}, fickle_passenger=True), ValueError, "fickle_passenger=True, which its table P leaves"),
    (Table({0: {0: [STAYING]}}, num_envs=2), ValueError, r"vector environment \(Table\)"),
    (Table({0: {0: [STAYING]}}, spec=SimpleNamespace(max_episode_steps=0)), ValueError, "max_episode_steps=0 is out"),
    (SimpleNamespace(P={}), ValueError, "has no table env.unwrapped.initial_state_distrib"),
    (None, ValueError, "env=NoneType has no table env.unwrapped.P"),
]


@pytest.mark.parametrize(("env", "error", "message"), REFUSED_TABLES, ids=[message for *_, message in REFUSED_TABLES])
def test_tables_refused(env, error, message):
    with pytest.raises(error, match=message):
        tables.from_gymnasium(env)


def test_time_limit_wrapper_overrules_the_spec():
    env = Table({0: {0: [STAYING]}}, spec=SimpleNamespace(max_episode_steps=9))
    assert tables.from_gymnasium(env)[1] == 9
    outer = wrapped("TimeLimit", env, _max_episode_steps=20)
    assert tables.from_gymnasium(outer)[1] == 20
    both = wrapped("TimeLimit", outer, _max_episode_steps=30)
    assert tables.from_gymnasium(both)[1] == 20
    assert tables.from_gymnasium(Table(env.P, spec=SimpleNamespace(max_episode_steps=None)))[1] is None


def test_wrappers_by_name():
    env = one_row(STAYING)
    for name in sorted(toy_text.NEUTRAL_WRAPPERS):
        tables.from_gymnasium(wrapped(name, env))
    inner = wrapped("ClipReward", env)
    with pytest.raises(ValueError, match=r"wrapper ClipReward, which may change .* pass env.unwrapped"):
        tables.from_gymnasium(wrapped("TimeLimit", inner))
    endless = wrapped("TimeLimit", env)
    endless.env = endless
    with pytest.raises(ValueError, match="more than 100 wrappers"):
        tables.from_gymnasium(endless)


def test_missing_gymnasium_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ImportError, match=r"env='FrozenLake-v1'.*pip install 'reinforce-np\[gymnasium\]'"):
        tables.from_gymnasium("FrozenLake-v1")
    tables.from_gymnasium(one_row(STAYING))  # an object needs no import


# --- Gymnasium itself ---------------------------------------------------------------------------------------------

# Each id without its version, of which the newest that is registered is made.
MAKES = {
    "FrozenLake slippery": ("FrozenLake", {}, 100),
    "FrozenLake dry": ("FrozenLake", {"is_slippery": False}, 100),
    "FrozenLake always right": ("FrozenLake", {"success_rate": 1.0}, 100),
    "FrozenLake rewards": ("FrozenLake", {"reward_schedule": (2, -1, -0.5)}, 100),
    "FrozenLake8x8 slippery": ("FrozenLake8x8", {}, 200),
    "FrozenLake8x8 dry": ("FrozenLake8x8", {"is_slippery": False}, 200),
    "FrozenLake two starts": ("FrozenLake", {"desc": ["SFS", "FHG"]}, 100),
    "CliffWalking": ("CliffWalking", {}, None),
    "CliffWalkingSlippery": ("CliffWalkingSlippery", {}, None),
    "Taxi": ("Taxi", {}, 200),
    "Taxi rainy": ("Taxi", {"is_rainy": True}, 200),
    "short": ("FrozenLake", {"max_episode_steps": 7}, 7),
    "unlimited": ("FrozenLake", {"max_episode_steps": -1}, None),
}


@pytest.fixture
def gymnasium():
    return pytest.importorskip("gymnasium")


def newest(gymnasium, name):
    """The newest id of `name` in Gymnasium's registry; a test of what is not there is skipped."""
    versions = [
        int(env_id.removeprefix(f"{name}-v")) for env_id in gymnasium.registry if env_id.startswith(f"{name}-v")
    ]
    if not versions:
        pytest.skip(f"Gymnasium {gymnasium.__version__} has no {name}")
    return f"{name}-v{max(versions)}"


def make(gymnasium, name, **options):
    """The newest environment `name`; a test of options that its constructor does not have is skipped."""
    env_id = newest(gymnasium, name)
    creator = gymnasium.envs.registration.load_env_creator(gymnasium.registry[env_id].entry_point)
    known = {*inspect.signature(creator).parameters, "max_episode_steps"}
    for option in options.keys() - known:
        pytest.skip(f"{env_id} of Gymnasium {gymnasium.__version__} has no {option}")
    return gymnasium.make(env_id, **options)


@pytest.mark.parametrize("name", MAKES)
def test_gymnasium_entry_by_entry(name, gymnasium):
    env_name, options, limit = MAKES[name]
    env = make(gymnasium, env_name, **options)
    fields, time_limit = tables.from_gymnasium(env)
    assert time_limit == limit
    np.testing.assert_array_equal(fields["initial"], env.unwrapped.initial_state_distrib)
    table = outcomes(fields)
    assert len(table) == len(env.unwrapped.P) == env.observation_space.n
    for s, a in itertools.product(range(env.observation_space.n), range(env.action_space.n)):
        expected = {}
        for p, n, r, t in env.unwrapped.P[s][a]:
            if p > 0:
                expected[int(n), float(r), bool(t)] = expected.get((int(n), float(r), bool(t)), 0.0) + p
        assert {o[1:]: o[0] for o in table[s][a]} == expected
        assert len(table[s][a]) == len(expected)
    mdp.FiniteMDP(**fields, gamma=0.9, horizon=time_limit)


@pytest.mark.parametrize(
    "name", ["FrozenLake slippery", "FrozenLake8x8 dry", "CliffWalkingSlippery", "Taxi", "Taxi rainy"]
)
def test_gymnasium_step_gives_outcomes_of_the_table(name, gymnasium):
    env_name, options, _ = MAKES[name]
    env = make(gymnasium, env_name, **options).unwrapped
    table = outcomes(tables.from_gymnasium(env)[0])
    first, _ = env.reset(seed=3)
    assert env.initial_state_distrib[first] > 0
    seen = set()
    for s, a in itertools.product(range(len(table)), range(len(table[0]))):
        for _ in range(1 if len(table[s][a]) == 1 else 3):
            env.s = s
            n, r, terminated, truncated, _ = env.step(a)
            outcome = (n, float(r), bool(terminated))
            assert outcome in [o[1:] for o in table[s][a]]
            assert not truncated
            seen.add((s, a, outcome))
    possible = sum(len(row) for actions in table for row in actions)
    assert len(seen) > possible / 2  # the steps reached more than the first column


def test_gymnasium_by_id_equals_by_object(gymnasium):
    by_id, limit = tables.from_gymnasium("FrozenLake-v1")
    by_object, _ = tables.from_gymnasium(gymnasium.make("FrozenLake-v1"))
    assert limit == 100
    assert all(np.array_equal(by_id[name], by_object[name]) for name in by_id)


def test_gymnasium_neutral_wrappers_exist_and_are_accepted(gymnasium):
    later = {"AddWhiteNoise", "ObstructView"} if gymnasium.__version__.startswith(("1.0.", "1.1.")) else set()
    assert toy_text.NEUTRAL_WRAPPERS - later <= set(dir(gymnasium.wrappers))
    env = gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make("FrozenLake-v1"))
    assert tables.from_gymnasium(gymnasium.wrappers.TimeLimit(env, 5))[1] == 5


CHANGING_WRAPPERS = {
    "TransformReward": lambda wrapper, env: wrapper(env, lambda r: 2 * r),
    "ClipReward": lambda wrapper, env: wrapper(env, -1, 0),
    "NormalizeReward": lambda wrapper, env: wrapper(env),
    "TransformObservation": lambda wrapper, env: wrapper(env, lambda o: o, env.observation_space),
    "FlattenObservation": lambda wrapper, env: wrapper(env),
    "TransformAction": lambda wrapper, env: wrapper(env, lambda a: 3 - a, env.action_space),
    "StickyAction": lambda wrapper, env: wrapper(env, 0.25),
    "RepeatAction": lambda wrapper, env: wrapper(env, 2),
    "DelayObservation": lambda wrapper, env: wrapper(env, 1),
    "Autoreset": lambda wrapper, env: wrapper(env),
}


@pytest.mark.parametrize("name", CHANGING_WRAPPERS)
def test_gymnasium_wrappers_refused(name, gymnasium):
    if not hasattr(gymnasium.wrappers, name):
        pytest.skip(f"Gymnasium {gymnasium.__version__} has no {name}")
    wrapper = CHANGING_WRAPPERS[name](getattr(gymnasium.wrappers, name), gymnasium.make("FrozenLake-v1"))
    with pytest.raises(ValueError, match=f"env has the wrapper {name}, "):
        tables.from_gymnasium(gymnasium.wrappers.TimeLimit(wrapper, 9))


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("NoSuchLake-v1", "env='NoSuchLake-v1' cannot be made: .*doesn't exist"),
        ("no_such_module:Lake-v1", "env='no_such_module:Lake-v1' cannot be made: No module"),
        ("a b", "env='a b' cannot be made: Malformed"),
        ("Blackjack-v1", "env=BlackjackEnv has no table env.unwrapped.P"),
        ("CartPole-v1", "env=CartPoleEnv has no table env.unwrapped.P"),
    ],
)
def test_gymnasium_ids_refused(env_id, message, gymnasium):
    with pytest.raises(ValueError, match=message):
        tables.from_gymnasium(env_id)


@pytest.mark.parametrize("env_id", ["Taxi-v3", "CliffWalking-v0"])
def test_gymnasium_deprecated_ids_refused(env_id, gymnasium):
    if env_id in gymnasium.registry:
        pytest.skip(f"{env_id} is not deprecated in Gymnasium {gymnasium.__version__}")
    with pytest.raises(ValueError, match=f"env='{env_id}' cannot be made: .*{env_id[-2:]} .*deprecated"):
        tables.from_gymnasium(env_id)


def test_gymnasium_fickle_passenger_refused(gymnasium):
    env = make(gymnasium, "Taxi", fickle_passenger=True)
    with pytest.raises(ValueError, match=r"TaxiEnv has fickle_passenger=True.*make it with fickle_passenger=False"):
        tables.from_gymnasium(env)


def test_gymnasium_impossible_success_rate_refused(gymnasium):
    env = make(gymnasium, "FrozenLake", success_rate=1.5)
    with pytest.raises(ValueError, match=r"probability in P\[0, 0, 0\]=-0.25 is not a probability"):
        tables.from_gymnasium(env)


def test_gymnasium_map_without_start_refused(gymnasium):
    with np.errstate(invalid="ignore"):  # Gymnasium divides zero by zero
        env = gymnasium.make("FrozenLake-v1", desc=["FF", "FG"])
    with pytest.raises(ValueError, match=r"initial_state_distrib=nan.*give it one"):
        tables.from_gymnasium(env)


def test_gymnasium_vector_environments_refused(gymnasium):
    for envs in (gymnasium.make_vec("FrozenLake-v1", num_envs=2), gymnasium.make_vec("Blackjack-v1", num_envs=1)):
        with pytest.raises(ValueError, match=r"vector environment \(SyncVectorEnv\); pass one of its environments"):
            tables.from_gymnasium(envs)
        envs.close()


def test_gymnasium_horizons_of_the_model(gymnasium):
    read = mdp.FiniteMDP.from_gymnasium
    assert read("FrozenLake-v1", gamma=0.9, horizon="time limit").horizon == 100
    assert read("FrozenLake-v1", gamma=0.9, horizon=3).horizon == 3
    with pytest.raises(ValueError, match='horizon="time limit", but the environment has none'):
        read(newest(gymnasium, "CliffWalking"), gamma=0.9, horizon="time limit")
    with pytest.raises(ValueError, match="horizon='limit' is unknown"):
        read("FrozenLake-v1", gamma=0.9, horizon="limit")
