"""Model files: ``.npz`` (compact) and ``.json`` (readable), written whole or not at all.

A file is untrusted input. It is read into memory under a size limit, and
nothing in it is unpickled, evaluated or believed about sizes before it has been
compared with what is really there; whatever is wrong becomes a
`FileFormatError` that names the file.

The JSON form is a header followed by one line per state and action::

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

import contextlib
import io
import json
import math
import os
import re
import secrets
import stat
import struct
import zipfile
import zlib

import numpy as np

from reinforce_np import arguments

FORMAT = "reinforce_np.FiniteMDP"
VERSION = 1
OUTCOME = ["probability", "next_state", "reward", "terminated"]

# Bytes of array data in a model, checked before anything is allocated.
MAX_ARRAY_BYTES = 2**30
# Parsed JSON takes some twenty times the memory of its text.
MAX_JSON_BYTES = 2**27
# A member above SMALL is stored uncompressed when written; when read it may not expand more than MAX_RATIO times,
# so that a file of kilobytes cannot ask for gigabytes.
SMALL = 2**24
MAX_RATIO = 100

# Array dtype and number of axes of every member of the zip archive.
MEMBERS = {
    "format_version": ("<i8", 0),
    "probability": ("<f8", 3),
    "next_state": ("<i8", 3),
    "reward": ("<f8", 3),
    "terminated": ("|b1", 3),
    "initial": ("<f8", 1),
    "gamma": ("<f8", 0),
    "horizon": ("<i8", 1),  # length 0 for None, else 1
}
OUTCOME_BYTES = 8 + 8 + 8 + 1

# What zipfile and zlib raise on damaged archives. The bytes are in memory by then, so none of these is about the disk.
ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,  # also NotImplementedError
    ValueError,
    KeyError,
    IndexError,
    OverflowError,
)

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
# The header as numpy.lib.format writes it. A pattern rather than numpy's parser, which evaluates a literal.
NPY_HEADER = re.compile(
    r"\{'descr': '([^']{1,20})', 'fortran_order': (True|False), 'shape': \(((?:\d{1,15}, ?)*(?:\d{1,15})?)\), \} *\n"
)


def write(path: str, fields: dict) -> None:
    """Write the fields of a model to `path`, atomically.

    Parameters
    ----------
    path : str
        The suffix, ``.npz`` or ``.json``, chooses the format.
    fields : dict
        The fields of `reinforce_np.mdp.FiniteMDP`, valid.

    Raises
    ------
    ValueError
        When the suffix is unknown, or the model is too large or too odd to be
        read again.
    OSError
        When the file cannot be written; an existing file is left as it was.
    """
    suffix = _suffix(path)
    _check_writable(fields)
    with _replacing(path) as stream:
        if suffix == ".npz":
            _write_npz(stream, fields)
        else:
            _write_json(stream, fields)


def read(path: str) -> dict:
    """Read the fields of a model from `path`.

    The form of the file is checked here, the values by
    `reinforce_np.mdp.FiniteMDP`.

    Parameters
    ----------
    path : str
        A ``.npz`` or ``.json`` file.

    Returns
    -------
    dict
        The fields of `reinforce_np.mdp.FiniteMDP`.

    Raises
    ------
    FileFormatError
        When the file is damaged, hostile, or not a model.
    OSError
        When it is missing or may not be read.
    ValueError
        When the suffix is unknown.
    """
    suffix = _suffix(path)
    limit, parse = (MAX_ARRAY_BYTES + SMALL, _parse_npz) if suffix == ".npz" else (MAX_JSON_BYTES, _parse_json)
    data = _contents(path, limit)
    try:
        return parse(data)
    except arguments.FileFormatError as error:
        raise arguments.FileFormatError(f"{path}: {error}") from None
    except (RecursionError, MemoryError, OverflowError) as error:
        raise arguments.FileFormatError(f"{path}: too deep or too large to read ({type(error).__name__})") from None


# --- paths ------------------------------------------------------------------------------------------------------


def _suffix(path):
    suffix = os.path.splitext(path)[1]
    if suffix.lower() not in (".npz", ".json"):
        raise ValueError(f"path={path!r} has suffix {suffix!r}; it must end in .npz or .json")
    return suffix.lower()


@contextlib.contextmanager
def _replacing(path):
    """Open a temporary file that takes the place of `path` when all went well, and is removed otherwise."""
    target = os.path.realpath(path)  # a link stays a link
    # In the same folder, since a file can only be renamed at once inside one file system.
    temporary = os.path.join(os.path.dirname(target), f".{secrets.token_hex(8)}.tmp")
    try:
        stream = open(temporary, "xb")  # noqa: SIM115 - closed below, before the file is renamed
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None  # the caller does not know the temporary name
    with stream:
        try:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()
            os.replace(temporary, target)
        except BaseException:
            stream.close()
            os.unlink(temporary)
            raise


def _contents(path, limit):
    """Return the bytes of a regular file of at most `limit` bytes."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise arguments.FileFormatError(f"{path}: it is {kind}; pass the path of a model file")
    with open(path, "rb") as stream:
        data = stream.read(min(limit, os.fstat(stream.fileno()).st_size) + 1)  # one more shows that it is too long
    if not data:
        raise arguments.FileFormatError(f"{path}: the file is empty")
    if len(data) > limit:
        raise arguments.FileFormatError(f"{path}: the file has more than {limit} bytes, the most that is read")
    return data


def _check_writable(fields):
    """Refuse a model that `read` would refuse for its size."""
    horizon = fields["horizon"]
    if horizon is not None and horizon >= 2**63:
        raise ValueError(f"horizon={horizon} does not fit a file; it must be below 2**63, or None")
    _check_size(fields["probability"].shape, len(fields["initial"]), ValueError)


def _check_size(shape, n_states, error):
    size = OUTCOME_BYTES * math.prod(shape) + 8 * n_states
    if size > MAX_ARRAY_BYTES:
        raise error(f"{shape} outcomes take {size} bytes, more than the {MAX_ARRAY_BYTES} that a file may hold")


# --- npz --------------------------------------------------------------------------------------------------------


def _write_npz(stream, fields):
    horizon = [] if fields["horizon"] is None else [fields["horizon"]]
    values = {**fields, "format_version": VERSION, "horizon": horizon}
    with zipfile.ZipFile(stream, "w") as archive:
        for name, (dtype, _) in MEMBERS.items():
            array = np.asarray(values[name]).astype(dtype, order="C")
            info = zipfile.ZipInfo(f"{name}.npy")  # its fixed date makes equal models equal files
            info.external_attr = 0o600 << 16
            info.compress_type = zipfile.ZIP_DEFLATED if array.nbytes <= SMALL else zipfile.ZIP_STORED
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)


def _parse_npz(data):
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = _checked_members(archive)
            version = int(_read_array(archive, members, "format_version"))
            _check_version(version)
            _check_names("member", [f"{name}.npy" for name in MEMBERS], members)
            values = {name: _read_array(archive, members, name) for name in MEMBERS}
    except arguments.FileFormatError:
        raise
    except ARCHIVE_ERRORS as error:
        raise arguments.FileFormatError(f"not an intact .npz archive ({type(error).__name__}: {error})") from None
    del values["format_version"]
    values["gamma"] = float(values["gamma"])
    values["horizon"] = _npz_horizon(values["horizon"])
    return values


def _npz_horizon(array):
    if array.size > 1:
        raise arguments.FileFormatError(f"horizon has {array.size} entries; it must have one, or none for None")
    return int(array[0]) if array.size else None


def _checked_members(archive):
    """Return the archive's members by name, having compared their sizes with the limits."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if info.filename in members:
            raise arguments.FileFormatError(f"duplicate member {info.filename!r}")
        if info.flag_bits & 1:
            raise arguments.FileFormatError(f"member {info.filename!r} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise arguments.FileFormatError(
                f"member {info.filename!r} has compression {info.compress_type}, not 0 or 8"
            )
        if info.file_size > SMALL and info.file_size > MAX_RATIO * info.compress_size:
            raise arguments.FileFormatError(
                f"member {info.filename!r} expands from {info.compress_size} to {info.file_size} bytes, "
                f"more than {MAX_RATIO} times"
            )
        members[info.filename] = info
    total = sum(info.file_size for info in members.values())
    if total > MAX_ARRAY_BYTES + SMALL:
        raise arguments.FileFormatError(f"the members hold {total} bytes, more than the {MAX_ARRAY_BYTES} allowed")
    return members


def _read_array(archive, members, name):
    """Return one member as an array, having compared its header with its size."""
    filename = f"{name}.npy"
    if filename not in members:
        raise arguments.FileFormatError(f"missing member {filename!r}")
    data = archive.read(members[filename])
    if len(data) != members[filename].file_size:
        raise arguments.FileFormatError(
            f"member {filename!r} holds {len(data)} bytes; the directory says {members[filename].file_size}"
        )
    start, dtype, fortran_order, shape = _npy_header(filename, data)
    wanted_dtype, wanted_ndim = MEMBERS[name]
    if dtype != wanted_dtype:
        raise arguments.FileFormatError(f"member {filename!r} has dtype {dtype!r}; it must be {wanted_dtype!r}")
    if len(shape) != wanted_ndim:
        raise arguments.FileFormatError(f"member {filename!r} has {len(shape)} axes; it must have {wanted_ndim}")
    claimed = math.prod(shape) * np.dtype(dtype).itemsize
    if claimed != len(data) - start:
        raise arguments.FileFormatError(
            f"member {filename!r} claims shape {shape}, {claimed} bytes, but holds {len(data) - start}"
        )
    flat = np.frombuffer(data, dtype=np.dtype(dtype), offset=start)
    if dtype == "|b1":
        flat = _checked_booleans(filename, flat)
    return flat.reshape(shape, order="F" if fortran_order else "C").astype(flat.dtype.newbyteorder("="), order="C")


def _checked_booleans(filename, flat):
    """Refuse bytes other than 0 and 1, which NumPy would carry along as truths unequal to True."""
    if flat.view(np.uint8).max(initial=0) > 1:
        raise arguments.FileFormatError(f"member {filename!r} holds bytes that are neither 0 nor 1")
    return flat


def _npy_header(filename, data):
    """Return where the data of an .npy file start, its dtype string, memory order and shape."""
    magic, version = data[:6], tuple(data[6:8])
    if magic != b"\x93NUMPY" or version not in ((1, 0), (2, 0), (3, 0)):
        raise arguments.FileFormatError(f"member {filename!r} is not an .npy array of a known version")
    width = 2 if version == (1, 0) else 4
    start = 8 + width + int.from_bytes(data[8 : 8 + width], "little")
    match = NPY_HEADER.fullmatch(data[8 + width : start].decode("latin-1"))
    if start > len(data) or not match:
        raise arguments.FileFormatError(f"member {filename!r} has a damaged or foreign array header")
    dtype, order, axes = match.groups()
    return start, dtype, order == "True", tuple(int(n) for n in axes.replace(",", " ").split())


# --- JSON -------------------------------------------------------------------------------------------------------


def _write_json(stream, fields):
    """Write the header, then one line per state and action; refuse text that `read` would refuse for its size."""
    n_states, n_actions, n_outcomes = fields["probability"].shape
    header = {
        "format": FORMAT,
        "version": VERSION,
        "gamma": float(fields["gamma"]),
        "horizon": None if fields["horizon"] is None else int(fields["horizon"]),
        "n_states": n_states,
        "n_actions": n_actions,
        "n_outcomes": n_outcomes,
        "initial": fields["initial"].tolist(),
        "outcome": OUTCOME,
    }
    lines = ",\n".join(f"  {_json(name)}: {_json(value)}" for name, value in header.items())
    stream.write(f'{{\n{lines},\n  "table": ['.encode("ascii"))
    separator = "\n"
    for line in _json_lines(fields):
        stream.write(f"{separator}    {_json(line)}".encode("ascii"))
        separator = ",\n"
        if stream.tell() > MAX_JSON_BYTES - 10:
            raise ValueError(f"the model takes more than {MAX_JSON_BYTES} bytes of JSON; save it as .npz")
    stream.write(b"\n  ]\n}\n")


def _json(value):
    return json.dumps(value, allow_nan=False)


def _json_lines(fields):
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


def _parse_json(data):
    document = _json_document(data)
    if not isinstance(document, dict):
        raise arguments.FileFormatError(f"the top level is {_kind(document)}, not an object")
    if document.get("format") != FORMAT:
        raise arguments.FileFormatError(f'"format" is {_short(document.get("format"))}; it must be {FORMAT!r}')
    _check_version(document.get("version"))
    _check_names("key", HEADER_KEYS, document)
    if document["outcome"] != OUTCOME:
        raise arguments.FileFormatError(f'"outcome" is {_short(document["outcome"])}; it must be {OUTCOME}')
    shape = tuple(_count(document, name) for name in ("n_states", "n_actions", "n_outcomes"))
    horizon = document["horizon"]
    if horizon is not None and type(horizon) is not int:
        raise arguments.FileFormatError(f'"horizon" is {_kind(horizon)}; it must be a whole number or null')
    initial = document["initial"]
    if not isinstance(initial, list):
        raise arguments.FileFormatError(f'"initial" is {_kind(initial)}; it must be a list')
    return {
        **_json_table(document["table"], shape),
        "initial": np.array([_real(f'"initial"[{s}]', p) for s, p in enumerate(initial)], dtype=np.float64),
        "gamma": _real('"gamma"', document["gamma"]),
        "horizon": horizon,
    }


def _json_document(data):
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
            raise arguments.FileFormatError(f"duplicate key {_short(key)}")
        result[key] = value
    return result


def _refuse_constant(text):
    raise arguments.FileFormatError(f"{text} is not a JSON number; every number must be finite")


def _finite_float(text):
    value = float(text)
    if not math.isfinite(value):
        raise arguments.FileFormatError(f"{_clipped(text)} is too large for a float; every number must be finite")
    return value


def _small_integer(text):
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:  # length first: long digits are slow to convert
        raise arguments.FileFormatError(f"{_clipped(text)} is too large; whole numbers must fit 64 bits")
    return int(text)


def _json_table(table, shape):
    """Return the arrays (S, A, K) of the lines in `table`."""
    n_states, n_actions, n_outcomes = shape
    _check_size(shape, n_states, arguments.FileFormatError)
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
    _check_names(f'"table"[{i}] key', ("state", "action", "outcomes"), line)
    for name, count in (("state", shape[0]), ("action", shape[1])):
        value = line[name]
        if type(value) is not int or not 0 <= value < count:
            raise arguments.FileFormatError(
                f'"table"[{i}]: "{name}" is {_short(value)}; it must be a whole number in [0, {count - 1}]'
            )
    where = f"state {line['state']}, action {line['action']}"
    outcomes = line["outcomes"]
    if not isinstance(outcomes, list) or len(outcomes) > shape[2]:
        found = f"{len(outcomes)} entries" if isinstance(outcomes, list) else _kind(outcomes)
        raise arguments.FileFormatError(f'{where}: "outcomes" has {found}; it must be a list of at most {shape[2]}')
    return line["state"], line["action"], [_checked_outcome(f"{where}, outcome {k}", o) for k, o in enumerate(outcomes)]


def _checked_outcome(where, outcome):
    if not isinstance(outcome, list) or len(outcome) != len(OUTCOME):
        raise arguments.FileFormatError(f"{where} is {_short(outcome)}; it must be [{', '.join(OUTCOME)}]")
    probability, next_state, reward, terminated = outcome
    if type(next_state) is not int:
        raise arguments.FileFormatError(f"{where}: next_state is {_short(next_state)}; it must be a whole number")
    if type(terminated) is not bool:
        raise arguments.FileFormatError(f"{where}: terminated is {_short(terminated)}; it must be true or false")
    return (
        _real(f"{where}: probability", probability),
        next_state,
        _real(f"{where}: reward", reward),
        terminated,
    )


def _real(where, value):
    if type(value) not in (int, float):
        raise arguments.FileFormatError(f"{where} is {_short(value)}; it must be a number")
    return float(value)


def _count(document, name):
    value = document[name]
    if type(value) is not int or value < 1:
        raise arguments.FileFormatError(f'"{name}" is {_short(value)}; it must be a whole number of at least 1')
    return value


# --- shared by both formats -------------------------------------------------------------------------------------


def _check_version(version):
    if type(version) is not int or version != VERSION:
        raise arguments.FileFormatError(
            f"format version {_short(version)} is unknown; this release reads version {VERSION}"
        )


def _check_names(what, wanted, found):
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted]
    if missing:
        raise arguments.FileFormatError(f"missing {what} {', '.join(map(repr, missing))}")
    if extra:
        raise arguments.FileFormatError(f"unknown {what} {', '.join(map(_short, extra[:5]))}")


def _kind(value):
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _short(value):
    return _clipped(repr(value))


def _clipped(text):
    return text if len(text) <= 60 else text[:57] + "..."
