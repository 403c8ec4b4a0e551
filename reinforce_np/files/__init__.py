"""Model files: ``.npz`` (compact) and ``.json`` (readable), written whole or not at all.

A file is untrusted input. It is read into memory under a size limit, and
nothing in it is unpickled, evaluated or believed about sizes before it has been
compared with what is really there; whatever is wrong becomes a
`FileFormatError` that names the file.
"""

import os

from reinforce_np import arguments
from reinforce_np.files import as_json, as_npz, common, disk

__all__ = ["read", "write"]


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
    form = _format(path)
    horizon = fields["horizon"]
    if horizon is not None and horizon >= 2**63:
        raise ValueError(f"horizon={horizon} does not fit a file; it must be below 2**63, or None")
    common.check_size(fields["probability"].shape, ValueError)
    with disk.replacing(path) as stream:
        form.write(stream, fields)


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
    form = _format(path)
    data = disk.contents(path, form.MAX_BYTES)
    try:
        return form.parse(data)
    except arguments.FileFormatError as error:
        raise arguments.FileFormatError(f"{path}: {error}") from None
    except (RecursionError, MemoryError, OverflowError) as error:
        raise arguments.FileFormatError(f"{path}: too deep or too large to read ({type(error).__name__})") from None


def _format(path):
    """Return the module that reads and writes what the suffix of `path` says."""
    suffix = os.path.splitext(path)[1]
    if suffix.lower() == ".npz":
        return as_npz
    if suffix.lower() == ".json":
        return as_json
    raise ValueError(f"path={path!r} has suffix {suffix!r}; it must end in .npz or .json")
