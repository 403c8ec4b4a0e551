"""The record of N trajectories: what it refuses, what it hides, and how batches are cut and joined."""

import pickle

import numpy as np
import pytest

from reinforce_np import TabularSoftmax, Trajectories, concatenate, examples, sample
from reinforce_np.trajectories import PADDING

WIDE = ("states", "actions", "rewards", "log_probabilities")
NARROW = ("lengths", "terminated", "truncated", "final_states", "groups")


def arrays(n=3, n_steps=4, lengths=(4, 0, 2)):
    """Arrays whose every entry is another number, zero after the end."""
    mask = np.arange(n_steps) < np.array(lengths)[:, None]
    numbers = np.arange(1, n * n_steps + 1).reshape(n, n_steps) * mask
    return {
        "states": numbers, "actions": 100 * numbers, "rewards": numbers / 2, "log_probabilities": -numbers / 4,
        "lengths": np.array(lengths), "terminated": np.array(lengths) < n_steps, "truncated": np.array(lengths) == n_steps,
        "final_states": np.arange(n) + 7, "groups": np.arange(n) // 2,
    }  # fmt: skip


def record(**changes):
    return Trajectories(**{**arrays(), **changes})


def fields(batch):
    return {name: getattr(batch, name).tolist() for name in WIDE + NARROW}


def test_fields_are_what_was_given():
    assert fields(record()) == {name: array.tolist() for name, array in arrays().items()}
    assert fields(Trajectories(**{name: array.tolist() for name, array in arrays().items()})) == fields(record())


def test_length_steps_and_text():
    assert (len(record()), record().n_steps, repr(record())) == (3, 4, "Trajectories(n=3, n_steps=4)")


def test_mask_marks_the_steps_that_happened():
    assert record().mask.tolist() == [[True] * 4, [False] * 4, [True, True, False, False]]


def test_arrays_are_read_only():
    batch = record()
    for name in WIDE + NARROW:
        with pytest.raises(ValueError, match="read-only"):
            getattr(batch, name)[0] = 0
    with pytest.raises(AttributeError):
        batch.states = batch.actions


def test_the_callers_arrays_stay_writable():
    given = arrays()
    Trajectories(**given)
    for array in given.values():
        array[0] = array[0]
        assert array.flags.writeable


@pytest.mark.parametrize("name", WIDE[1:])
@pytest.mark.parametrize("shape", [(3, 5), (2, 4), (3,), (3, 4, 1)])
def test_wide_arrays_of_another_shape_are_refused(name, shape):
    with pytest.raises(ValueError, match=rf"{name} has shape .*; it must have shape \(3, 4\)"):
        record(**{name: np.zeros(shape)})


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("shape", [(2,), (3, 1), ()])
def test_narrow_arrays_of_another_shape_are_refused(name, shape):
    with pytest.raises(ValueError, match=rf"{name} has shape .*; it must have shape \(3,\)"):
        record(**{name: np.zeros(shape)})


def test_states_must_have_two_axes():
    with pytest.raises(ValueError, match="states has 1 axes"):
        record(states=np.zeros(3))


@pytest.mark.parametrize(("lengths", "message"), [
    ([4, 5, 2], r"lengths\[1\]=5 is out of range; it must be in \[0, 4\]"), ([4, 0, -1], r"lengths\[2\]=-1 is out of range"),
])  # fmt: skip
def test_lengths_outside_the_time_axis_are_refused(lengths, message):
    with pytest.raises(ValueError, match=message):
        record(lengths=np.array(lengths))


@pytest.mark.parametrize("index", [slice(1, 3), np.array([2, 0, 0]), np.array([True, False, True]), slice(0, 0)])
def test_take_picks_rows_of_every_array(index):
    taken = record().take(index)
    assert fields(taken) == {name: array[index].tolist() for name, array in arrays().items()}
    assert taken.n_steps == 4


def test_taken_rows_are_read_only_and_groups_keep_their_labels():
    taken = record().take(slice(2, 3))
    assert taken.groups.tolist() == [1]
    assert not taken.rewards.flags.writeable


def test_concatenate_pads_the_shorter_with_zeros():
    short = Trajectories(**arrays(n=2, n_steps=2, lengths=(2, 1)))
    joined = concatenate([short, record()])
    assert (len(joined), joined.n_steps) == (5, 4)
    assert fields(joined.take(slice(2, 5))) == fields(record())
    for name in WIDE:
        array = getattr(joined, name)
        assert np.array_equal(array[:2, :2], getattr(short, name))
        assert np.all(array[:2, 2:] == PADDING)
        assert array.dtype == getattr(short, name).dtype
    assert np.array_equal(joined.mask[:2], [[True, True, False, False], [True, False, False, False]])


def test_concatenate_keeps_groups_and_order():
    assert concatenate([record(), record()]).groups.tolist() == [0, 0, 1, 0, 0, 1]
    assert concatenate(iter([record(), record().take([1])])).final_states.tolist() == [7, 8, 9, 8]
    assert fields(concatenate([record()])) == fields(record())


def test_concatenate_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"batches=\[\] is empty; pass at least one"):
        concatenate([])


def test_concatenate_of_empty_batches():
    empty = record().take(slice(0))
    assert (len(concatenate([empty, empty])), concatenate([empty, record()]).n_steps) == (0, 4)


def test_taking_apart_and_joining_is_the_identity():
    mdp = examples.referee(horizon=None)
    batch = sample(mdp, TabularSoftmax(3, 3), np.zeros(9), 50, rng=0)
    parts = [batch.take(slice(i, i + 13)) for i in range(0, 50, 13)]
    assert fields(concatenate(parts)) == fields(batch)


def test_a_pickle_has_the_same_numbers():
    assert fields(pickle.loads(pickle.dumps(record()))) == fields(record())


@pytest.mark.parametrize("name", ["states", "actions"])
@pytest.mark.parametrize("dtype", [np.int8, np.int64])
def test_only_states_and_actions_of_the_model_are_taken(name, dtype):
    def record(value):
        found = np.array([[1, value]], dtype=dtype)
        zeros = np.zeros((1, 2), dtype=dtype)
        arrays = {"states": zeros, "actions": zeros, "rewards": np.zeros((1, 2)), "log_probabilities": np.zeros((1, 2))}
        narrow = {x: np.array([y]) for x, y in (("lengths", 2), ("terminated", True), ("truncated", False))}
        return Trajectories(**(arrays | narrow | {name: found}), final_states=np.array([0]), groups=np.array([0]))

    assert record(4).of_model(5, 5) is not None
    for wrong in (5, -1):
        with pytest.raises(ValueError, match=rf"{name}\[0, 1\]={wrong} is out of range; it must be in \[0, 4\]"):
            record(wrong).of_model(5, 5)
