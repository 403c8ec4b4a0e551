"""Runs that are stopped anywhere and go on to the same bits; files of another run, or of nobody."""

import collections
import functools
import json
import operator
import threading
from fractions import Fraction

import numpy as np
import pytest

from reinforce_np import FileFormatError, ModelSource, TabularSoftmax, algorithms, examples
from reinforce_np.files import as_npz
from reinforce_np.training import (
    SGD,
    Adam,
    Checkpoint,
    Evaluation,
    LeastSquares,
    Linear,
    Momentum,
    NaturalGradient,
    RMSProp,
    TemporalDifference,
    Update,
    checkpoints,
    train,
)
from reinforce_np.training.fingerprints import fingerprint
from reinforce_np.training.history import members

SOURCE = ModelSource(examples.referee(), TabularSoftmax(3, 3), group_size=2)
PPO = functools.partial(algorithms.ppo, lam=0.5)
RUNS = {
    "adam, least squares": {"optimiser": Adam(0.1), "critic": LeastSquares(memory=0.5)},
    "momentum, td": {"optimiser": Momentum(Linear(0.2, 0.0, 6)), "critic": TemporalDifference(0.2, 0.5)},
    "natural, ppo": {
        "optimiser": NaturalGradient(0.1), "critic": LeastSquares(np.eye(3)[:, :2], 0.1), "estimator": PPO, "update": Update(2, 2),
    },
    "rmsprop, rloo": {"optimiser": RMSProp(0.1), "critic": None, "estimator": algorithms.rloo()},
}  # fmt: skip


def run(iterations=6, checkpoint=None, **options):
    defaults = {"source": SOURCE, "estimator": algorithms.reinforce_with_baseline, "optimiser": SGD(0.1), "critic": LeastSquares(),
                "batch_size": 8, "evaluation": Evaluation(every=2, keep_theta=True), "rng": 3}  # fmt: skip
    options = defaults | options
    what = [options.pop(name) for name in ("source", "estimator", "optimiser")]
    return train(*what, iterations=iterations, checkpoint=checkpoint, **options)


def same(a, b):
    """Bit for bit, the whole history and the states."""
    assert np.array_equal(a.theta, b.theta)
    for name in members():
        assert np.array_equal(getattr(a.history, name), getattr(b.history, name), equal_nan=True), name
    for x, y in ((a.state.optimiser, b.state.optimiser), (a.state.critic, b.state.critic)):
        assert type(x) is type(y)
        assert x is None or all(np.array_equal(p, q) for p, q in zip(x, y, strict=True))


@pytest.mark.parametrize("name", RUNS)
def test_a_run_in_pieces_is_the_run(tmp_path, name):
    whole, path = run(**RUNS[name]), tmp_path / "run.npz"
    for iterations in (0, 1, 4, 6):  # nothing, a piece, over an evaluation, to the end
        piece = run(iterations, Checkpoint(path, seconds=0, resume=True), **RUNS[name])
    same(piece, whole)
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"]


@pytest.mark.parametrize("at", [0, 3])
def test_an_interrupt_within_an_iteration_leaves_the_one_before(tmp_path, at):
    calls, path = iter(range(100)), tmp_path / "run.npz"

    def interrupted(trajectories, theta):
        if next(calls) == at:
            raise KeyboardInterrupt
        return theta

    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=Checkpoint(path, seconds=1e6), estimator=interrupted, critic=None)
    found = as_npz.arrays(path.read_bytes(), lambda text: checkpoints._wanted(text, {}, None))
    assert json.loads(found["header"].tobytes())["iteration"] == len(found["history.kl"]) == at


def test_an_interrupted_run_goes_on(tmp_path):
    def watch(iteration, row):
        if iteration == 4:
            raise KeyboardInterrupt

    path = tmp_path / "run.npz"
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=Checkpoint(path), watch=watch)
    same(run(checkpoint=Checkpoint(path, resume=True)), run())
    same(run(checkpoint=Checkpoint(path, resume=True), rng=None), run())  # the seed is in the file


def test_a_failure_before_the_first_step_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="shape"):
        run(checkpoint=Checkpoint(tmp_path / "run.npz"), estimator=lambda t, theta: np.zeros(1), critic=None)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    run(2, Checkpoint(path))
    before, write = path.read_bytes(), as_npz.write_arrays

    def full(stream, arrays):
        write(stream, dict(list(arrays.items())[:3]))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(as_npz, "write_arrays", full)
    with pytest.raises(OSError, match="No space"):
        run(4, Checkpoint(path, resume=True))
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


OTHER = {
    "mdp": {"source": ModelSource(examples.referee(horizon=3), TabularSoftmax(3, 3), group_size=2)},
    "policy": {"source": ModelSource(examples.referee(), TabularSoftmax(3, 3, temperature=2.0), group_size=2)},
    "group_size": {"source": ModelSource(examples.referee(), TabularSoftmax(3, 3), group_size=4)},
    "behaviour": {"source": ModelSource(examples.referee(), TabularSoftmax(3, 3), behaviour=np.zeros(9), group_size=2)},
    "estimator": {"estimator": functools.partial(algorithms.ppo, lam=0.5)},
    "optimiser": {"optimiser": SGD(0.2)},
    "critic": {"critic": LeastSquares(ridge=0.1)},
    "update": {"update": Update(clip_norm=1.0)},
    "batch_size": {"batch_size": 12},
    "first theta": {"theta": np.ones(9)},
    "seed": {"rng": 4},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run.npz"
    run(2, Checkpoint(path))
    return path


@pytest.mark.parametrize("name", OTHER)
def test_another_run_is_refused_by_name(finished, name):
    with pytest.raises(FileFormatError, match=f"run.npz: it was written by another run: its {name} is"):
        run(checkpoint=Checkpoint(finished, resume=True), **OTHER[name])


def test_a_run_is_not_overwritten(finished):
    with pytest.raises(ValueError, match="resume=True"):
        run(checkpoint=Checkpoint(finished))
    with pytest.raises(ValueError, match=r"file ending in \.npz"):
        Checkpoint("run.pickle")


def test_damaged_files_are_refused(finished, tmp_path):
    data, path = finished.read_bytes(), tmp_path / "bad.npz"
    whole = run(2)
    rng = np.random.default_rng(0)
    for trial in range(30):
        damaged = bytearray(data)
        if trial % 2:
            damaged = damaged[: rng.integers(len(data))]
        else:
            damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            found = run(2, Checkpoint(path, resume=True))
        except FileFormatError as error:
            assert str(path) in str(error)
        else:
            same(found, whole)  # a bit that means nothing, such as that of a date


@pytest.mark.parametrize(("member", "change", "message"), [
    ("history.iteration", lambda x: x[::-1], "count iterations"), ("history.iteration", lambda x: x + 1, "count iterations"),
    ("history.evaluated", lambda x: x[::-1], "not in order"), ("history.evaluated", lambda x: x + 9, "after the last"),
    ("history.theta", lambda x: np.ones((len(x), 2)), "keeps 2 parameters"),
    ("critic.squares", lambda x: x * np.inf, "squares of its state of the critic is not finite"),
])  # fmt: skip
def test_histories_that_no_run_has_are_refused(finished, tmp_path, member, change, message):
    stored = as_npz.arrays(finished.read_bytes(), lambda text: checkpoints._wanted(text, {}, None))
    path = tmp_path / "bad.npz"
    with open(path, "wb") as stream:
        as_npz.write_arrays(stream, stored | {member: change(stored[member])})
    with pytest.raises(FileFormatError, match=message):
        run(checkpoint=Checkpoint(path, resume=True))


def test_states_that_do_not_fit_are_refused(tmp_path):
    path, bad = tmp_path / "run.npz", tmp_path / "bad.npz"
    adam = RUNS["adam, least squares"]
    run(2, Checkpoint(path), **adam)
    stored = as_npz.arrays(path.read_bytes(), lambda text: checkpoints._wanted(text, {}, None))
    header = json.loads(stored["header"].tobytes())
    for change, message in (
        (
            {"optimiser.m": stored["optimiser.m"][:1]},
            r"m of its state of the optimiser has shape \(1,\); it must be \(9,\)",
        ),
        ({"optimiser.v": stored["optimiser.v"] * np.nan}, "v of its state of the optimiser is not finite"),
        ({"critic.squares": None, "critic.products": None}, "no state of the critic after 2 iterations"),
    ):
        arrays = {name: x for name, x in (stored | change).items() if x is not None}
        states = {name: form for name, form in header["states"].items() if name in arrays}
        text = np.frombuffer(json.dumps(header | {"states": states}).encode(), dtype=np.uint8)
        with open(bad, "wb") as stream:
            as_npz.write_arrays(stream, arrays | {"header": text})
        with pytest.raises(FileFormatError, match=message):
            run(checkpoint=Checkpoint(bad, resume=True), **adam)


class Stateless:
    """Plain ascent by somebody's own class, which has nothing to remember."""

    def start(self, theta):
        return None

    def step(self, theta, gradient, state, draw=None):
        return theta + 0.1 * gradient, None


def test_an_optimiser_without_a_state_goes_on(tmp_path):
    path = tmp_path / "run.npz"
    run(2, Checkpoint(path), optimiser=Stateless())
    same(run(4, Checkpoint(path, resume=True), optimiser=Stateless()), run(4, optimiser=Stateless()))


def test_a_seed_is_told_from_its_children(tmp_path):
    path = tmp_path / "run.npz"
    first, second = np.random.SeedSequence(3).spawn(2)
    run(1, Checkpoint(path), rng=second)
    for other, said in (
        (3, r"3 with spawn_key=\[1\], and not 3 with spawn_key=\[\]"),
        (first, r"spawn_key=\[1\], and not 3 with spawn_key=\[0\]"),
    ):
        with pytest.raises(FileFormatError, match=said):
            run(2, Checkpoint(path, resume=True), rng=other)


def test_wrong_headers_are_refused(finished, tmp_path):
    stored = as_npz.arrays(
        finished.read_bytes(),
        lambda text: checkpoints._wanted(text, {}, None),
    )
    good = json.loads(stored["header"].tobytes())
    for change, message in [
        ({"format": "other"}, "no checkpoint"),
        ({"version": 2}, "version 2"),
        ({"iteration": -1}, "no counts"),
        ({"iteration": True}, "no counts|no proper"),
        ({"iteration": 3}, "history has 2"),
        ({"entropy": "x"}, "'entropy'"),
        ({"spawn_key": [1.5]}, "no counts"),
        ({"identity": {}}, "its mdp is absent"),
        ({"states": {"optimiser.t": ["|O", 0]}}, "unknown form"),
        ({"states": {"optimiser.m": ["<i8", 0]}}, "missing member"),
        (None, "not JSON"),
    ]:
        text = b"{" if change is None else json.dumps(good | change).encode()
        path = tmp_path / "bad.npz"
        with open(path, "wb") as stream:
            as_npz.write_arrays(stream, stored | {"header": np.frombuffer(text, dtype=np.uint8)})
        with pytest.raises(FileFormatError, match=message):
            run(checkpoint=Checkpoint(path, resume=True))


class Slotted:
    """A record without attributes of its own, such as a schedule of somebody's."""

    __slots__ = ("rate",)

    def __init__(self, rate):
        self.rate = rate


def without_a_variable():
    def inner():
        return later

    if not inner:
        later = 1
    return inner


@pytest.mark.parametrize("made", [
    operator.itemgetter, Slotted, lambda n: [n].__getitem__, lambda n: {1: n}.get, lambda n: np.array([1, str(n)], dtype=object),
    lambda n: Fraction(n, 7), range, slice, lambda n: collections.deque([n]), lambda n: bytearray([n]), np.random.default_rng,
])  # fmt: skip
def test_fingerprints_of_what_has_no_attributes(made):
    assert fingerprint(made(1)) == fingerprint(made(1)) != fingerprint(made(2))
    assert fingerprint({"inside": [made(1)]}) != fingerprint({"inside": [made(2)]})


def test_fingerprints_of_what_cannot_be_pickled_are_names():
    locks = threading.Lock(), threading.Lock()
    assert fingerprint(locks[0]) == fingerprint(locks[1]) != fingerprint(object())
    assert fingerprint(without_a_variable()) == fingerprint(without_a_variable())


def test_fingerprints_tell_apart_and_do_not_change():
    def power(n):
        return lambda x: x**n

    different = [
        None, 0, 0.0, False, "0", b"0", (), [], {}, (0,), np.zeros(1), np.zeros((1, 1)), np.zeros(1, dtype=int), SGD(0.1), SGD(0.2),
        power(2), power(3), lambda x: x + 1, lambda x: x - 1, functools.partial(max, 1), functools.partial(max, 2), max, Adam(0.1),
        LeastSquares(np.eye(2)), LeastSquares(np.eye(3)), {"a": 1}, {"a": 2}, algorithms.ppo, np.float64(1.0), SOURCE, SOURCE.mdp,
    ]  # fmt: skip
    assert len({fingerprint(value) for value in different}) == len(different)
    assert fingerprint(power(2)) == fingerprint(power(2))
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint(SGD(0.1))[:16] == "5b7336f19b6eb874"  # the same in every process
