"""The compact format: a zip archive of ``.npy`` arrays, as `numpy.savez` writes it and `numpy.load` reads it.

It is read without NumPy's own parser, which evaluates a literal and allocates
what the header claims.
"""

import io
import math
import re
import struct
import zipfile
import zlib

import numpy as np

from reinforce_np import arguments
from reinforce_np.files import common

# A member above SMALL is stored uncompressed when written; when read it may not expand more than MAX_RATIO times,
# so that a file of kilobytes cannot ask for gigabytes.
SMALL = 2**24
MAX_RATIO = 100
MAX_BYTES = common.MAX_ARRAY_BYTES + SMALL  # of the file; its headers and directory are small

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

# The header as numpy.lib.format writes it.
NPY_HEADER = re.compile(
    r"\{'descr': '([^']{1,20})', 'fortran_order': (True|False), 'shape': \(((?:\d{1,15}, ?)*(?:\d{1,15})?)\), \} *\n"
)


def write(stream, fields):
    """Write the fields of a model to a binary stream."""
    horizon = [] if fields["horizon"] is None else [fields["horizon"]]
    values = {**fields, "format_version": common.VERSION, "horizon": horizon}
    write_arrays(stream, {name: np.asarray(values[name]).astype(dtype) for name, (dtype, _) in MEMBERS.items()})


def write_arrays(stream, arrays):
    """Write arrays by name to a binary stream."""
    with zipfile.ZipFile(stream, "w") as archive:
        for name, value in arrays.items():
            array = np.asarray(value, order="C")
            info = zipfile.ZipInfo(f"{name}.npy")  # its fixed date makes equal models equal files
            info.external_attr = 0o600 << 16
            info.compress_type = zipfile.ZIP_DEFLATED if array.nbytes <= SMALL else zipfile.ZIP_STORED
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)


def parse(data):
    """Return the fields of the model whose file holds the bytes `data`."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = _checked_members(archive)
            # Before the names, which may be others in another version.
            common.check_version(int(_read_array(archive, members, "format_version", *MEMBERS["format_version"])))
            common.check_names("member", [f"{name}.npy" for name in MEMBERS], members)
            values = {
                name: _read_array(archive, members, name, *wanted)
                for name, wanted in MEMBERS.items()
                if name != "format_version"
            }
    except arguments.FileFormatError:
        raise
    except ARCHIVE_ERRORS as error:
        raise arguments.FileFormatError(f"not an intact .npz archive ({type(error).__name__}: {error})") from None
    horizon = values["horizon"]
    if horizon.size > 1:
        raise arguments.FileFormatError(f"horizon has {horizon.size} entries; it must have one, or none for None")
    return {**values, "gamma": float(values["gamma"]), "horizon": int(horizon[0]) if horizon.size else None}


def arrays(data, wanted):
    """Return the arrays of the file that holds the bytes `data`: exactly those `wanted`, {name: (dtype, number of axes)}.

    `wanted` may also be a function of the archive's first member, an array of bytes named "header".
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = _checked_members(archive)
            if callable(wanted):
                wanted = wanted(_read_array(archive, members, "header", "|u1", 1))
            common.check_names("member", [f"{name}.npy" for name in wanted], members)
            return {name: _read_array(archive, members, name, *form) for name, form in wanted.items()}
    except arguments.FileFormatError:
        raise
    except ARCHIVE_ERRORS as error:
        raise arguments.FileFormatError(f"not an intact .npz archive ({type(error).__name__}: {error})") from None


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
    if total > MAX_BYTES:
        raise arguments.FileFormatError(
            f"the members hold {total} bytes, more than the {common.MAX_ARRAY_BYTES} allowed"
        )
    return members


def _read_array(archive, members, name, wanted_dtype, wanted_ndim):
    """Return one member as an array, having compared its header with its size."""
    filename = f"{name}.npy"
    if filename not in members:
        raise arguments.FileFormatError(f"missing member {filename!r}")
    data = archive.read(members[filename])
    if len(data) != members[filename].file_size:
        raise arguments.FileFormatError(
            f"member {filename!r} holds {len(data)} bytes; the directory says {members[filename].file_size}"
        )
    start, dtype, order, shape = _npy_header(filename, data)
    if dtype != wanted_dtype:
        raise arguments.FileFormatError(f"member {filename!r} has dtype {dtype!r}; it must be {wanted_dtype!r}")
    if len(shape) != wanted_ndim:
        raise arguments.FileFormatError(f"member {filename!r} has {len(shape)} axes; it must have {wanted_ndim}")
    claimed = math.prod(shape) * np.dtype(dtype).itemsize
    if claimed != len(data) - start:
        raise arguments.FileFormatError(
            f"member {filename!r} claims shape {shape}, {claimed} bytes, but holds {len(data) - start}"
        )
    flat = np.frombuffer(data, dtype=dtype, offset=start)
    # NumPy would carry other bytes along as truths unequal to True.
    if dtype == "|b1" and flat.view(np.uint8).max(initial=0) > 1:
        raise arguments.FileFormatError(f"member {filename!r} holds bytes that are neither 0 nor 1")
    return flat.reshape(shape, order=order).astype(flat.dtype.newbyteorder("="), order="C")


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
    dtype, fortran_order, axes = match.groups()
    shape = tuple(int(n) for n in axes.replace(",", " ").split())
    return start, dtype, "F" if fortran_order == "True" else "C", shape
