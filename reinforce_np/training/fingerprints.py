"""Whether two runs are the same: a digest of what defines them, that does not change from process to process."""

import dataclasses
import functools
import hashlib
import types

import numpy as np

WORDS = 80  # letters of a description in a message


def fingerprint(value):
    """Return 64 hexadecimal digits that tell records, arrays, numbers and functions apart.

    A function counts by its name, code and what it closes over; a record by
    the fields it was made with; an object of no known kind by its class and attributes, or by what a pickle of it would hold.

    Parameters
    ----------
    value : object
        What defines a run.

    Returns
    -------
    str

    Examples
    --------
    >>> fingerprint(np.zeros(2)) == fingerprint(np.array([0.0, 0.0])) != fingerprint(np.zeros(3))
    True
    """
    digest = hashlib.sha256()
    _feed(digest.update, value, inside=())
    return digest.hexdigest()


def words(value):
    """Return a short description for messages."""
    text = " ".join((_name(value) if callable(value) and not dataclasses.is_dataclass(value) else repr(value)).split())
    return text if len(text) <= WORDS else text[: WORDS - 3] + "..."


def _feed(update, value, inside):
    """Digest a value; `inside` are the ids of what it is a part of."""
    if len(inside) > 50:
        raise ValueError("what defines the run is nested more than 50 deep; pass plain records, arrays and numbers")
    if id(value) in inside:  # an object that holds itself
        update(f"outer:{inside.index(id(value))};".encode())
        return
    inner = functools.partial(_feed, update, inside=(*inside, id(value)))
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic):
        update(f"{type(value).__name__}:{value!r};".encode())
    elif isinstance(value, np.ndarray) and value.dtype.kind != "O":
        update(f"array:{value.dtype.str}:{value.shape};".encode())
        update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, types.CodeType):
        update(value.co_code)
        inner((*value.co_names, *value.co_consts))
    elif isinstance(value, dict):
        update(f"dict:{len(value)};".encode())
        for key in sorted(value, key=repr):
            inner(key)
            inner(value[key])
    elif isinstance(value, tuple | list | set | frozenset):
        update(f"{type(value).__name__}:{len(value)};".encode())
        for item in sorted(value, key=repr) if isinstance(value, set | frozenset) else value:
            inner(item)
    elif isinstance(value, functools.partial):
        update(b"partial;")
        inner((value.func, value.args, value.keywords))
    elif isinstance(value, types.MethodType):
        inner((value.__func__, value.__self__))
    elif isinstance(value, types.FunctionType):
        update(f"function:{_name(value)};".encode())
        cells = tuple(_content(cell) for cell in value.__closure__ or ())
        inner((value.__code__, value.__defaults__, value.__kwdefaults__, cells))
    elif isinstance(value, type):
        update(f"{_name(value)};".encode())
    elif dataclasses.is_dataclass(value):
        update(f"object:{_name(type(value))};".encode())
        inner({field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init})
    elif hasattr(value, "__dict__"):
        update(f"object:{_name(type(value))};".encode())
        inner(vars(value))
    else:
        update(f"{_name(value)};".encode())
        inner(_pickled(value))


def _content(cell):
    """Return what a function closes over; an empty cell is one that is filled later, or never."""
    try:
        return cell.cell_contents
    except ValueError:
        return types.CellType


def _pickled(value):
    """Return what a pickle of an object without attributes would hold; its name where there is none."""
    try:
        parts = value.__reduce_ex__(4)
    except Exception:  # whatever it raises, it cannot be pickled
        return _name(value)
    return (
        parts if isinstance(parts, str) else tuple(list(part) if hasattr(part, "__next__") else part for part in parts)
    )


def _name(value):
    if isinstance(value, functools.partial):
        given = [repr(a) for a in value.args] + [f"{key}={a!r}" for key, a in value.keywords.items()]
        return f"{_name(value.func)}({', '.join(given)})"
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | type):
        return f"{value.__module__}.{value.__qualname__}"
    return f"{type(value).__module__}.{type(value).__qualname__}"
