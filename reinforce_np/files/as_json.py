"""The readable format: JSON, a header followed by one line per state and action.

For example::

    {
      "format": "reinforce_np.FiniteMDP",
      "version": 1,
      "gamma": 0.9,
      "horizon": null,
      "n_states": 2,
      "n_actions": 1,
      "n_outcomes": 2,
      "initial": [1.0, 0.0],
      "outcome": ["probability", "next_state", "reward", "terminated"],
      "table": [
        {"state": 0, "action": 0, "outcomes": [[0.5, 0, 1.0, false], [0.5, 1, 0.0, true]]},
        {"state": 1, "action": 0, "outcomes": [[1.0, 1, 0.0, true]]}
      ]
    }

Lines may come in any order. A line with fewer than ``n_outcomes`` outcomes is
padded with outcomes of probability zero that stay in the state and pay nothing.
"""

import json
import math

import numpy as np

from reinforce_np import arguments
from reinforce_np.files import common

FORMAT = "reinforce_np.FiniteMDP"
OUTCOME = ["probability", "next_state", "reward", "terminated"]
HEADER_KEYS = (
    "format",
    "version",
    "gamma",
    "horizon",
    "n_states",
    "n_actions",
    "n_outcomes",
    "initial",
    "outcome",
    "table",
)

MAX_BYTES = 2**27  # parsed JSON takes some twenty times the memory of its text


def write(stream, fields):
    """Write the fields of a model to a binary stream, refusing text that would be too long to read."""
    n_states, n_actions, n_outcomes = fields["probability"].shape
    header = {
        "format": FORMAT,
        "version": common.VERSION,
        "gamma": fields["gamma"],
        "horizon": fields["horizon"],
        "n_states": n_states,
        "n_actions": n_actions,
        "n_outcomes": n_outcomes,
        "initial": fields["initial"].tolist(),
        "outcome": OUTCOME,
    }
    lines = ",\n".join(f"  {_json(name)}: {_json(value)}" for name, value in header.items())
    stream.write(f'{{\n{lines},\n  "table": ['.encode("ascii"))
    separator = "\n"
    for line in _lines(fields):
        stream.write(f"{separator}    {_json(line)}".encode("ascii"))
        separator = ",\n"
        if stream.tell() > MAX_BYTES - 10:
            raise ValueError(f"the model takes more than {MAX_BYTES} bytes of JSON; save it as .npz")
    stream.write(b"\n  ]\n}\n")


def _json(value):
    return json.dumps(value, allow_nan=False)


def _lines(fields):
    n_states, n_actions, _ = fields["probability"].shape
    used = _used_outcomes(fields)
    for s in range(n_states):
        columns = [fields[name][s].tolist() for name in OUTCOME]
        for a in range(n_actions):
            outcomes = list(zip(*(column[a] for column in columns), strict=True))[: used[s, a]]
            yield {"state": s, "action": a, "outcomes": outcomes}


def _used_outcomes(fields):
    """Return the number of outcomes (S, A) before the tail that the reader's padding gives back bit by bit."""
    n_states, _, n_outcomes = fields["probability"].shape
    states = np.arange(n_states)[:, None, None]
    padding = (fields["next_state"] == states) & ~fields["terminated"]
    for name in ("probability", "reward"):
        padding &= (fields[name] == 0) & ~np.signbit(fields[name])  # -0.0 is not padding
    return n_outcomes - np.cumprod(padding[:, :, ::-1], axis=2).sum(axis=2)


def parse(data):
    """Return the fields of the model whose file holds the bytes `data`."""
    document = _document(data)
    if not isinstance(document, dict):
        raise arguments.FileFormatError(f"the top level is {_kind(document)}, not an object")
    if document.get("format") != FORMAT:
        raise arguments.FileFormatError(f'"format" is {common.short(document.get("format"))}; it must be {FORMAT!r}')
    common.check_version(document.get("version"))
    common.check_names("key", HEADER_KEYS, document)
    if document["outcome"] != OUTCOME:
        raise arguments.FileFormatError(f'"outcome" is {common.short(document["outcome"])}; it must be {OUTCOME}')
    shape = tuple(_count(document, name) for name in ("n_states", "n_actions", "n_outcomes"))
    horizon = document["horizon"]
    if horizon is not None and type(horizon) is not int:
        raise arguments.FileFormatError(f'"horizon" is {_kind(horizon)}; it must be a whole number or null')
    initial = document["initial"]
    if not isinstance(initial, list):
        raise arguments.FileFormatError(f'"initial" is {_kind(initial)}; it must be a list')
    return {
        **_arrays(document["table"], shape),
        "initial": np.array([_real(f'"initial"[{s}]', p) for s, p in enumerate(initial)], dtype=np.float64),
        "gamma": _real('"gamma"', document["gamma"]),
        "horizon": horizon,
    }


def _document(data):
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise arguments.FileFormatError(f"not UTF-8 text ({error.reason} at byte {error.start})") from None
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_small_integer,
        )
    except json.JSONDecodeError as error:
        raise arguments.FileFormatError(f"not valid JSON: {error}") from None


def _unique_keys(pairs):
    result: dict = {}
    for key, value in pairs:
        if key in result:
            raise arguments.FileFormatError(f"duplicate key {common.short(key)}")
        result[key] = value
    return result


def _refuse_constant(text):
    raise arguments.FileFormatError(f"{text} is not a JSON number; every number must be finite")


def _finite_float(text):
    value = float(text)
    if not math.isfinite(value):
        raise arguments.FileFormatError(f"{common.clipped(text)} is too large for a float; every number must be finite")
    return value


def _small_integer(text):
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:  # length first: long digits are slow to convert
        raise arguments.FileFormatError(f"{common.clipped(text)} is too large; whole numbers must fit 64 bits")
    return int(text)


def _arrays(table, shape):
    """Return the arrays (S, A, K) of the lines in `table`."""
    n_states, n_actions, n_outcomes = shape
    common.check_size(shape, arguments.FileFormatError)
    if not isinstance(table, list) or len(table) != n_states * n_actions:
        found = f"{len(table)} lines" if isinstance(table, list) else _kind(table)
        raise arguments.FileFormatError(
            f'"table" has {found}; it must have {n_states * n_actions}, one for every state and action'
        )
    arrays = {
        "probability": np.zeros(shape),
        "next_state": np.repeat(np.arange(n_states), n_actions * n_outcomes).reshape(shape),
        "reward": np.zeros(shape),
        "terminated": np.zeros(shape, dtype=bool),
    }
    seen = set()
    for i, line in enumerate(table):
        s, a, outcomes = _checked_line(i, line, shape)
        if (s, a) in seen:
            raise arguments.FileFormatError(f'"table" has two lines for state {s}, action {a}')
        seen.add((s, a))
        for name, values in zip(OUTCOME, zip(*outcomes, strict=True), strict=False):  # nothing to do for no outcomes
            arrays[name][s, a, : len(values)] = values
    return arrays


def _checked_line(i, line, shape):
    """Return state, action and outcomes of line `i`, whose forms are right."""
    if not isinstance(line, dict):
        raise arguments.FileFormatError(f'"table"[{i}] is {_kind(line)}, not an object')
    common.check_names(f'"table"[{i}] key', ("state", "action", "outcomes"), line)
    for name, count in (("state", shape[0]), ("action", shape[1])):
        value = line[name]
        if type(value) is not int or not 0 <= value < count:
            raise arguments.FileFormatError(
                f'"table"[{i}]: "{name}" is {common.short(value)}; it must be a whole number in [0, {count - 1}]'
            )
    where = f"state {line['state']}, action {line['action']}"
    outcomes = line["outcomes"]
    if not isinstance(outcomes, list) or len(outcomes) > shape[2]:
        found = f"{len(outcomes)} entries" if isinstance(outcomes, list) else _kind(outcomes)
        raise arguments.FileFormatError(f'{where}: "outcomes" has {found}; it must be a list of at most {shape[2]}')
    return line["state"], line["action"], [_checked_outcome(f"{where}, outcome {k}", o) for k, o in enumerate(outcomes)]


def _checked_outcome(where, outcome):
    if not isinstance(outcome, list) or len(outcome) != len(OUTCOME):
        raise arguments.FileFormatError(f"{where} is {common.short(outcome)}; it must be [{', '.join(OUTCOME)}]")
    probability, next_state, reward, terminated = outcome
    if type(next_state) is not int:
        raise arguments.FileFormatError(f"{where}: next_state is {common.short(next_state)}; it must be a whole number")
    if type(terminated) is not bool:
        raise arguments.FileFormatError(f"{where}: terminated is {common.short(terminated)}; it must be true or false")
    return (
        _real(f"{where}: probability", probability),
        next_state,
        _real(f"{where}: reward", reward),
        terminated,
    )


def _real(where, value):
    if type(value) not in (int, float):
        raise arguments.FileFormatError(f"{where} is {common.short(value)}; it must be a number")
    return float(value)


def _count(document, name):
    value = document[name]
    if type(value) is not int or value < 1:
        raise arguments.FileFormatError(f'"{name}" is {common.short(value)}; it must be a whole number of at least 1')
    return value


def _kind(value):
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
