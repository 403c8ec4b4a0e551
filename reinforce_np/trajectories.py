"""The record every estimator reads: N trajectories in padded arrays."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from reinforce_np import arguments

PADDING = 0
"""Value of every (N, T) array after the end of an episode; `Trajectories.mask` says where that is."""


@dataclass(frozen=True, eq=False)
class Trajectories:
    """N trajectories of at most T steps.

    ``rewards[n, t]`` is paid for ``actions[n, t]`` taken in ``states[n, t]``.
    Entries at t >= ``lengths[n]`` are padding and mean nothing. The arrays are
    read-only views of those given. What `sample` returns writes its (N, T)
    arrays out when one of them is first looked at.

    Parameters
    ----------
    states, actions : int array (N, T)
        What was visited and done.
    rewards : array (N, T)
        What was paid.
    lengths : int array (N,)
        Number of steps of each episode, 0 ... T.
    terminated, truncated : bool array (N,)
        Whether the episode ended by termination, or was cut at the horizon.
        Never both for episodes sampled from a `FiniteMDP`.
    final_states : int array (N,)
        State after the last step: where a critic bootstraps after truncation.
    log_probabilities : array (N, T)
        log μ(a|s) in nats under the *behaviour* policy μ that drew the actions.
    groups : int array (N,)
        Which group each trajectory belongs to; a group shares its first state.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples, sample
    >>> mdp = examples.short_corridor().replace(horizon=3)
    >>> batch = sample(mdp, TabularSoftmax(mdp.n_states, 2), np.zeros(2 * mdp.n_states), 2, rng=0)
    >>> batch
    Trajectories(n=2, n_steps=3)
    >>> batch.mask.sum(axis=1) == batch.lengths
    array([ True,  True])
    """

    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    lengths: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    final_states: np.ndarray
    log_probabilities: np.ndarray
    groups: np.ndarray

    def __post_init__(self):
        states = arguments.as_array("states", self.states)
        arguments.check_shape("states", states, ndim=2)
        n, n_steps = states.shape
        for field in dataclasses.fields(self):
            array = arguments.as_array(field.name, getattr(self, field.name))
            arguments.check_shape(field.name, array, shape=(n, n_steps) if field.name in WIDE else (n,))
            array = array.view()  # the caller's array stays writable for its owner
            array.setflags(write=False)
            object.__setattr__(self, field.name, array)
        if n and not (0 <= self.lengths.min() and self.lengths.max() <= n_steps):
            wrong = arguments.first_index((self.lengths < 0) | (self.lengths > n_steps))
            raise ValueError(
                f"{arguments.at('lengths', wrong)}={self.lengths[wrong]} is out of range; it must be in [0, {n_steps}]"
            )
        if not np.isfinite(self.rewards).all() and np.any(self.mask & ~np.isfinite(self.rewards)):
            wrong = arguments.first_index(self.mask & ~np.isfinite(self.rewards))
            raise ValueError(
                f"{arguments.at('rewards', wrong)}={self.rewards[wrong]} is not a finite number; replace it"
            )

        for name in ("states", "actions", "lengths", "final_states", "groups"):
            if getattr(self, name).dtype.kind not in "iu":
                raise TypeError(f"{name} holds {getattr(self, name).dtype} values; it must hold whole numbers")

    def __repr__(self):
        return f"Trajectories(n={len(self)}, n_steps={self.n_steps})"

    def __len__(self):
        return len(self.lengths)

    def __getattr__(self, name):
        """Write out the (N, T) arrays of a sampled batch when one of them is looked at for the first time."""
        if name not in WIDE or "packed" not in vars(self):
            fields = ", ".join(field.name for field in dataclasses.fields(self))
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}; it has {fields}, and mask")
        _set(self, vars(self)["packed"].unpack())
        return vars(self)[name]

    @property
    def n_steps(self):
        """T, the length of the time axis."""
        return self.packed.n_steps if "packed" in vars(self) else self.states.shape[1]

    @property
    def mask(self):
        """True at the steps that happened, shape (N, T)."""
        steps = np.arange(self.n_steps)
        if "packed" in vars(self) or self.states.flags.f_contiguous:  # in the order of the other arrays in memory
            return (steps[:, None] < self.lengths).T
        return steps < self.lengths[:, None]

    def of_model(self, n_states, n_actions):
        """Return the record with its padding set to zero, refusing states and actions that the model does not have."""
        if "packed" in vars(self) and self.packed.is_of(n_states, n_actions):
            return self  # as it was drawn
        if "packed" in vars(self):  # of another model: its pairs s·A + a are not those of this one
            return self.take(slice(None)).of_model(n_states, n_actions)
        for name, limit in (("states", n_states), ("actions", n_actions)):
            visited = getattr(self, name)
            unsigned = visited.view(visited.dtype.str.replace("i", "u"))  # in which a negative number is a large one
            if unsigned.max(initial=0) < limit:
                continue
            wrong = self.mask & ((visited < 0) | (visited >= limit))
            if wrong.any():
                index = arguments.first_index(wrong)
                raise ValueError(
                    f"{arguments.at(name, index)}={visited[index]} is out of range; it must be in [0, {limit - 1}]"
                )
        if not len(self) or self.lengths.min() == self.n_steps:
            return self
        padding = ~self.mask
        if not np.any(padding & ((self.states != PADDING) | (self.actions != PADDING))):
            return self
        clean = {name: np.where(padding, PADDING, getattr(self, name)) for name in ("states", "actions")}
        return dataclasses.replace(self, **clean)

    def take(self, index):
        """Return the trajectories picked by a slice, an index array or a boolean mask.

        Examples
        --------
        >>> from reinforce_np import TabularSoftmax, examples, sample
        >>> mdp = examples.bandit(means=[0.0, 1.0])
        >>> sample(mdp, TabularSoftmax(1, 2), [0.0, 0.0], 5, rng=0).take(slice(3))
        Trajectories(n=3, n_steps=1)
        """
        if np.ndim(self.lengths[index]) != 1:
            raise ValueError(
                f"index={index!r} does not pick a batch; pass a slice, a mask or a sequence of whole numbers"
            )
        return of_checked({name: getattr(self, name)[index] for name in FIELDS})


FIELDS = tuple(field.name for field in dataclasses.fields(Trajectories))
WIDE = ("states", "actions", "rewards", "log_probabilities")  # the (N, T) arrays


def of_checked(fields):
    """Return the record of arrays that are known to fit together, parts of a record: nothing is checked again."""
    record = object.__new__(Trajectories)
    _set(record, fields)
    return record


def of_packed(packed, narrow):
    """Return the record whose (N,) arrays are given and whose (N, T) arrays are what ``packed.unpack()`` returns.

    It is asked only when one of them is looked at. Until then a batch costs a
    tenth of the memory and of the time, and much can be done without.
    """
    record = of_checked(narrow)
    object.__setattr__(record, "packed", packed)
    return record


def _set(record, fields):
    for array in fields.values():
        array.setflags(write=False)
    vars(record).update(fields)


def concatenate(batches):
    """Join batches of trajectories, padding the shorter time axes.

    Parameters
    ----------
    batches : sequence of Trajectories
        At least one.

    Returns
    -------
    Trajectories
        ``groups`` are kept as they are: batches with equal labels share groups.

    Raises
    ------
    ValueError
        When there are no batches.
    TypeError
        When one of them is none.

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, examples, sample
    >>> mdp = examples.bandit(means=[0.0, 1.0])
    >>> batch = sample(mdp, TabularSoftmax(1, 2), [0.0, 0.0], 5, rng=0)
    >>> concatenate([batch, batch])
    Trajectories(n=10, n_steps=1)
    """
    batches = list(batches)
    if not all(isinstance(batch, Trajectories) for batch in batches):
        raise TypeError(f"batches={batches!r} are not all Trajectories")
    if not batches:
        raise ValueError("batches=[] is empty; pass at least one batch of trajectories")
    n_steps = max(batch.n_steps for batch in batches)

    def joined(name):
        arrays = [getattr(batch, name) for batch in batches]
        if arrays[0].ndim == 2:
            arrays = [np.pad(a, ((0, 0), (0, n_steps - a.shape[1])), constant_values=PADDING) for a in arrays]
        return np.concatenate(arrays)

    return Trajectories(**{f.name: joined(f.name) for f in dataclasses.fields(Trajectories)})
