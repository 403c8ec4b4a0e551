"""What happened in a run: plain arrays, one entry per iteration or per exact evaluation."""

import csv
import io
import json
import os
from dataclasses import dataclass

import numpy as np

from reinforce_np import arguments
from reinforce_np.files import as_npz, disk

PER_ITERATION = (
    "iteration", "trajectories", "steps", "mean_return", "discounted_return", "length", "gradient_norm", "kl", "updates",
)  # fmt: skip
PER_EVALUATION = ("evaluated", "objective", "exact_gradient_norm", "signal", "noise", "relative_bias")
COUNTS = ("iteration", "trajectories", "steps", "updates", "evaluated")
ASKED_FOR = ("signal", "noise", "relative_bias")


@dataclass(frozen=True, eq=False)
class History:
    """The course of a run; I iterations, E exact evaluations.

    Parameters
    ----------
    iteration : int array (I,)
        1, 2, ...
    trajectories, steps : int array (I,)
        How many were drawn so far.
    mean_return : array (I,)
        Mean undiscounted return of the batch, in reward: drawn *before* the update.
    discounted_return : array (I,)
        The same, discounted.
    length : array (I,)
        Mean number of steps of an episode.
    gradient_norm : array (I,)
        ‖ĝ‖ of the first update on the batch, before clipping.
    kl : array (I,)
        KL(data's policy ‖ new policy) per step, in nats, estimated on the batch after its last
        update: mean of ρ − 1 − log ρ (k3).
    updates : int array (I,)
        How many steps were taken on the batch.
    evaluated : int array (E,)
        After how many iterations J was computed.
    objective : array (E,)
        J(θ), exact.
    exact_gradient_norm : array (E,)
        ‖∇J(θ)‖, exact.
    signal, noise, relative_bias : array (E,)
        Of the estimate of the first step on a batch, from the largest of its `minibatches`, or the mean of `accumulate`
        batches, exact: ‖E[ĝ]‖², total variance, and ‖E[ĝ] − ∇J‖ / ‖∇J‖. NaN when they were not asked for, and a
        relative bias also where ∇J is zero; in CSV and JSON an empty cell and null.
    theta : array (E, D)
        Parameters at every evaluation, when they were asked for; else (E, 0).

    Examples
    --------
    >>> from reinforce_np import TabularSoftmax, algorithms, examples
    >>> from reinforce_np.training import SGD, train
    >>> problem = examples.bandit(means=[0.0, 1.0]), TabularSoftmax(1, 2)
    >>> history = train(problem, algorithms.reinforce(), SGD(1.0), iterations=3, batch_size=10, rng=0).history
    >>> history.trajectories, history.evaluated
    (array([10, 20, 30]), array([0, 1, 2, 3]))
    """

    iteration: np.ndarray
    trajectories: np.ndarray
    steps: np.ndarray
    mean_return: np.ndarray
    discounted_return: np.ndarray
    length: np.ndarray
    gradient_norm: np.ndarray
    kl: np.ndarray
    updates: np.ndarray
    evaluated: np.ndarray
    objective: np.ndarray
    exact_gradient_norm: np.ndarray
    signal: np.ndarray
    noise: np.ndarray
    relative_bias: np.ndarray
    theta: np.ndarray

    def __post_init__(self):
        for names in (PER_ITERATION, PER_EVALUATION):
            shape = np.shape(getattr(self, names[0]))
            for name in names:
                value = getattr(self, name)
                if name in COUNTS:
                    array = arguments.integer_array(name, value, low=0, high=2**62, shape=shape, ndim=1)
                else:
                    array = arguments.real_array(name, value, shape=shape, ndim=1, nan=name in ASKED_FOR)
                object.__setattr__(self, name, array)
        theta = arguments.real_array("theta", self.theta, shape=(len(self.evaluated), None), minus_infinity=True)
        object.__setattr__(self, "theta", theta)

    def __len__(self):
        return len(self.iteration)

    @property
    def signal_to_noise(self):
        """‖E[ĝ]‖ / √(total variance) at every evaluation, shape (E,); infinite without noise, NaN when not asked for."""
        ratio = np.where(self.signal > 0, np.inf, self.signal)
        np.divide(self.signal, self.noise, out=ratio, where=self.noise > 0)
        return np.sqrt(ratio)

    def save(self, path):
        """Write the history to `path`: ``.npz``, ``.json`` or ``.csv``, whole or not at all.

        Parameters
        ----------
        path : str or os.PathLike
            The suffix chooses the format. CSV has a line per iteration, with
            empty cells where nothing was evaluated, and leaves out theta.
        """
        path = os.fspath(path)
        writers = {".npz": self._npz, ".json": self._json, ".csv": self._csv}
        suffix = os.path.splitext(path)[1].lower()
        if suffix not in writers:
            raise ValueError(f"path={path!r} has suffix {suffix!r}; it must end in .npz, .json or .csv")
        data = writers[suffix]()
        with disk.replacing(path) as stream:
            stream.write(data)

    @classmethod
    def load(cls, path):
        """Read a history that `save` wrote as ``.npz``.

        Parameters
        ----------
        path : str or os.PathLike
            The file.

        Raises
        ------
        FileFormatError
            When the file is damaged, hostile, or not a history.
        OSError
            When it cannot be read at all.
        """
        path = os.fspath(path)
        data = disk.contents(path, as_npz.MAX_BYTES)
        try:
            return cls(**as_npz.arrays(data, members()))
        except ValueError as error:
            raise arguments.FileFormatError(f"{path}: {error}") from None

    def as_dict(self):
        """Return the columns as lists of plain numbers, as they go into a JSON document; None for NaN, and where θ is −inf."""
        found = {name: self._column(name) for name in (*PER_ITERATION, *PER_EVALUATION)}
        return {**found, "theta": [[None if np.isinf(x) else x for x in row] for row in self.theta.tolist()]}

    def _column(self, name, missing=None):
        """Return a column as a list, with `missing` for NaN."""
        return [missing if x != x else x for x in getattr(self, name).tolist()]

    def _npz(self):
        stream = io.BytesIO()
        as_npz.write_arrays(stream, {name: getattr(self, name) for name in members()})
        return stream.getvalue()

    def _json(self):
        return json.dumps(self.as_dict(), allow_nan=False).encode("ascii")

    def _csv(self):
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow((*PER_ITERATION, *PER_EVALUATION[1:]))
        columns = [getattr(self, name).tolist() for name in PER_ITERATION]
        evaluations = zip(*(self._column(name, missing="") for name in PER_EVALUATION[1:]), strict=True)
        exact = dict(zip(self.evaluated.tolist(), evaluations, strict=True))
        nothing = ("",) * (len(PER_EVALUATION) - 1)
        if 0 in exact:
            writer.writerow((0, *[""] * (len(PER_ITERATION) - 1), *exact[0]))
        for row in zip(*columns, strict=True):
            writer.writerow((*row, *exact.get(row[0], nothing)))
        return stream.getvalue().encode("ascii")


def members():
    """Return dtype and number of axes of every array of a file, as `as_npz` wants them."""
    found = {name: ("<i8" if name in COUNTS else "<f8", 1) for name in (*PER_ITERATION, *PER_EVALUATION)}
    return {**found, "theta": ("<f8", 2)}


class Recorder:
    """Collects rows in arrays that double when they are full: memory grows with the run by a few numbers an iteration.

    A row is written for the iteration it belongs to, not appended: one that an
    interrupt left behind is overwritten, or never read.
    """

    def __init__(self, n_kept, history=None):
        self.rows = {
            name: np.zeros(64, dtype=np.int64 if name in COUNTS else np.float64)
            for name in PER_ITERATION + PER_EVALUATION
        }
        self.rows["theta"] = np.zeros((64, n_kept))
        if history is not None:
            for name, column in self.rows.items():
                found = getattr(history, name)
                self.rows[name] = np.concatenate([found, np.zeros((64, *column.shape[1:]), dtype=column.dtype)])

    def write(self, index, row):
        """Write a row of an iteration, or of an evaluation, at `index`; what was not asked for is NaN."""
        for name in PER_ITERATION if "iteration" in row else (*PER_EVALUATION, "theta"):
            if index >= len(self.rows[name]):
                self.rows[name] = np.concatenate([self.rows[name], np.zeros_like(self.rows[name])])
            self.rows[name][index] = row.get(name, np.nan)

    def history(self, n_iterations, n_evaluations):
        """Return the first entries as a `History`."""
        sizes = dict.fromkeys(PER_ITERATION, n_iterations)
        return History(**{name: column[: sizes.get(name, n_evaluations)].copy() for name, column in self.rows.items()})
