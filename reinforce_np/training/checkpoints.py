"""A run on disk, from which it goes on to the same bits.

Everything that the next iteration depends on is in the file: the iteration,
θ, the states of optimiser and critic, the history, and the entropy that all
random numbers come from (iteration i has its own child of it, so no
generator needs to be saved). What defines the run is there as fingerprints, and
a file of another run is refused by naming what differs.
"""

import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from reinforce_np import arguments
from reinforce_np.files import as_npz, disk
from reinforce_np.training.history import History, members

FORMAT = "reinforce_np.Checkpoint"
VERSION = 1
SECONDS = 30.0  # between two writes
MOST_AXES = 2  # of an array in the state of an optimiser or critic


@dataclass(frozen=True)
class Checkpoint:
    """Where a run is saved, how often, and whether it goes on from there.

    Parameters
    ----------
    path : str or os.PathLike
        A ``.npz`` file; written whole or not at all.
    seconds : float
        Between two writes, at least; 0 writes after every iteration. The last state is always written,
        also when the run is interrupted or fails.
    resume : bool
        Go on from the file if there is one. Without it an existing file is an
        error, so that no run is lost by mistake.

    Examples
    --------
    >>> Checkpoint("run.npz", seconds=0)
    Checkpoint(path='run.npz', seconds=0.0, resume=False)
    """

    path: Any
    seconds: float = SECONDS
    resume: bool = False

    def __post_init__(self):
        path = os.fspath(self.path)
        if not path.lower().endswith(".npz"):
            raise ValueError(f"path={path!r} is no checkpoint; pass a file ending in .npz")
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "seconds", arguments.number("seconds", self.seconds, low=0.0))
        arguments.flag("resume", self.resume)


@dataclass(frozen=True, eq=False)
class State:
    """All that the next iteration depends on, besides the seed.

    Parameters
    ----------
    iteration : int
        How many are done.
    evaluations : int
        How many exact evaluations are recorded.
    theta : array (D,)
        Parameters.
    optimiser, critic : NamedTuple or None
        Their states; None before the first batch, or without a critic.
    """

    iteration: int
    evaluations: int
    theta: np.ndarray
    optimiser: Any
    critic: Any


def exists(path):
    """Return whether there is something at `path`."""
    return os.path.lexists(path)


def refuse_existing(path):
    """Refuse to write over a run."""
    if exists(path):
        raise ValueError(f"path={path!r} exists; pass resume=True to go on with it, or another path")


def write(path, identity, seed, state, history):
    """Write a checkpoint, atomically.

    Parameters
    ----------
    path : str
        The file.
    identity : dict
        {name: [fingerprint, words]} of what defines the run.
    seed : numpy.random.SeedSequence
        The root of all random numbers.
    state : State
        Where the run is.
    history : History
        Up to there.
    """
    parts = {**_fields("optimiser", state.optimiser), **_fields("critic", state.critic)}
    header = {
        "format": FORMAT,
        "version": VERSION,
        "identity": identity,
        "entropy": _plain(seed.entropy),
        "spawn_key": [int(i) for i in seed.spawn_key],
        "iteration": state.iteration,
        "evaluations": state.evaluations,
        "states": {name: [array.dtype.str, array.ndim] for name, array in parts.items()},
    }
    text = np.frombuffer(json.dumps(header, allow_nan=False).encode("ascii"), dtype=np.uint8)
    columns = {f"history.{name}": getattr(history, name) for name in members()}
    with disk.replacing(path) as stream:
        as_npz.write_arrays(stream, {"header": text, "theta": state.theta, **parts, **columns})


def read(path, identity, seed, n_parameters, optimiser, critic):
    """Read a checkpoint.

    Parameters
    ----------
    path : str
        The file.
    identity : dict
        Of the run that is to go on.
    seed : numpy.random.SeedSequence or None
        Its seed; None takes that of the file.
    n_parameters : int
        D.
    optimiser : NamedTuple or None
        Its state before the first step; None for one that has none.
    critic : type or None
        The NamedTuple of its states.

    Returns
    -------
    State, History, numpy.random.SeedSequence

    Raises
    ------
    FileFormatError
        When the file is damaged, hostile, no checkpoint, or that of another run.
    OSError
        When it cannot be read at all.
    """
    data = disk.contents(path, as_npz.MAX_BYTES)
    header: dict = {}
    try:
        arrays = as_npz.arrays(data, lambda text: _wanted(text, header, identity))
        found = np.random.SeedSequence(header["entropy"], spawn_key=tuple(header["spawn_key"]))
        if seed is not None and (_plain(seed.entropy), list(seed.spawn_key)) != (
            header["entropy"],
            header["spawn_key"],
        ):
            keys = [
                f" with spawn_key={key}" if header["spawn_key"] or seed.spawn_key else ""
                for key in (header["spawn_key"], list(seed.spawn_key))
            ]
            raise ValueError(
                f"it was written by another run: its seed is {header['entropy']}{keys[0]}, and not {_plain(seed.entropy)}{keys[1]}; "
                "pass that one, or none"
            )
        theta = arguments.real_array("theta", arrays["theta"], shape=(n_parameters,), minus_infinity=True)
        state = State(
            header["iteration"],
            header["evaluations"],
            theta,
            None if optimiser is None else _state(type(optimiser), "optimiser", arrays),
            _state(critic, "critic", arrays) if any(name.startswith("critic.") for name in arrays) else None,
        )
        _check_like(optimiser, state.optimiser, n_parameters)
        if state.critic is None and state.iteration and getattr(critic, "_fields", None):
            raise ValueError(f"it holds no state of the critic after {state.iteration} iterations")
        history = History(**{name: arrays[f"history.{name}"] for name in members()})
        if (len(history), len(history.evaluated)) != (state.iteration, state.evaluations):
            raise ValueError(f"its history has {len(history)} iterations; the header says {state.iteration}")
        if not np.array_equal(history.iteration, np.arange(1, len(history) + 1)):
            raise ValueError("its history does not count iterations 1, 2, 3, ...")
        if np.any(np.diff(history.evaluated, prepend=-1, append=state.iteration + 1) <= 0):
            raise ValueError("its history holds evaluations that are not in order, or after the last iteration")
        if len(history.theta) and history.theta.shape[1] not in (0, n_parameters):
            raise ValueError(f"its history keeps {history.theta.shape[1]} parameters; the policy has {n_parameters}")
    except (ValueError, TypeError, RecursionError, MemoryError, OverflowError) as error:
        raise arguments.FileFormatError(f"{path}: {error}") from None
    return state, history, found


def _wanted(text, header, identity):
    """Return the form of every array of a file whose header holds the bytes `text`; check what it says of the run."""
    try:
        found = json.loads(text.tobytes().decode("ascii"))
    except ValueError as error:
        raise arguments.FileFormatError(f"its header is not JSON: {error}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise arguments.FileFormatError("it is no checkpoint of a training run")
    if found.get("version") != VERSION:
        raise arguments.FileFormatError(
            f"format version {found.get('version')!r} is unknown; this release reads {VERSION}"
        )
    kinds: dict = {
        "entropy": (int, list),
        "spawn_key": list,
        "iteration": int,
        "evaluations": int,
        "states": dict,
        "identity": dict,
    }
    for name, kind in kinds.items():
        if not isinstance(found.get(name), kind) or isinstance(found.get(name), bool):
            raise arguments.FileFormatError(f"its header has no proper {name!r}")
    numbers = found["entropy"] if isinstance(found["entropy"], list) else [found["entropy"]]
    if not all(
        type(n) is int and n >= 0 for n in [*numbers, *found["spawn_key"], found["iteration"], found["evaluations"]]
    ):
        raise arguments.FileFormatError("its header holds numbers that are no counts")
    forms = {}
    for name, form in found["states"].items():
        if form not in [[kind, axes] for kind in ("<f8", "<i8") for axes in range(MOST_AXES + 1)]:
            raise arguments.FileFormatError(f"its header has an unknown form of {name!r}")
        forms[name] = tuple(form)
    _check_identity(found["identity"], identity)
    header.update(found)
    history = {f"history.{name}": form for name, form in members().items()}
    return {"header": ("|u1", 1), "theta": ("<f8", 1), **forms, **history}


def _check_identity(found, identity):
    """Refuse a file of another run, naming what differs; None accepts any."""
    if identity is None:
        return
    for name in dict.fromkeys((*identity, *found)):
        here, there = identity.get(name), found.get(name)
        if here is None or not isinstance(there, list) or len(there) != 2 or here[0] != there[0]:
            said = [part[1] if isinstance(part, list) and len(part) == 2 else "absent" for part in (there, here)]
            difference = f"{said[0]}, and not {said[1]}" if said[0] != said[1] else f"another {said[0]}"
            if name == "source" and said[0] == said[1]:
                difference = f"another, or was stepped since (pass a function that makes the environment): {said[0]}"
            raise arguments.FileFormatError(
                f"it was written by another run: its {name} is {str(difference)[:300]}; go on with the same, or take another file"
            )


def _fields(prefix, state):
    """Return {prefix.name: array} of a state."""
    if state is None:
        return {}
    if not hasattr(state, "_asdict"):
        raise TypeError(
            f"the state of the {prefix} is {type(state).__name__}; a checkpoint needs a NamedTuple of numbers and arrays"
        )
    arrays = {}
    for name, value in state._asdict().items():
        array = np.asarray(value)
        if array.dtype.kind not in "iuf" or array.ndim > MOST_AXES:
            raise TypeError(
                f"{name} of the state of the {prefix} is no number or array of at most {MOST_AXES} axes: {value!r}"
            )
        arrays[f"{prefix}.{name}"] = array.astype("<f8" if array.dtype.kind == "f" else "<i8")
    return arrays


def _state(kind, prefix, arrays):
    """Return the state again, numbers as numbers."""
    found = {name.removeprefix(f"{prefix}."): array for name, array in arrays.items() if name.startswith(f"{prefix}.")}
    if kind is None or set(found) != set(kind._fields):
        raise arguments.FileFormatError(
            f"it holds a state of the {prefix} that this run cannot use: {', '.join(sorted(found))}"
        )
    for name, array in found.items():
        if not arguments.all_finite(array):
            raise arguments.FileFormatError(f"{name} of its state of the {prefix} is not finite")
    return kind(**{name: array.item() if array.ndim == 0 else array for name, array in found.items()})


def _check_like(first, state, n_parameters):
    """Refuse a state of an optimiser whose numbers, one a parameter before the first step, are of another shape."""
    for name, value in () if first is None else first._asdict().items():
        shape = np.shape(getattr(state, name))
        if np.shape(value) in ((), (n_parameters,)) and shape != np.shape(value):
            raise ValueError(f"{name} of its state of the optimiser has shape {shape}; it must be {np.shape(value)}")


def _plain(entropy):
    """Return the entropy of a seed as JSON holds it."""
    return int(entropy) if np.ndim(entropy) == 0 else [int(word) for word in entropy]
