"""Model files: exact round trips, whole files or none, and hostile input."""

import io
import json
import os
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforce_np import arguments, files, mdp
from reinforce_np.files import as_json, as_npz, common, disk

FIELDS = ("probability", "next_state", "reward", "terminated", "initial")
SUFFIXES = (".npz", ".json")
SETTINGS = settings(max_examples=40, deadline=None, derandomize=True, database=None)

MODEL = mdp.FiniteMDP(
    probability=[[[0.5, 0.5], [1.0, 0.0]], [[1.0, 0.0], [0.1, 0.9]]],
    next_state=[[[0, 1], [1, 0]], [[1, 1], [0, 1]]],
    reward=[[[1.0, -0.0], [2.5, 0.0]], [[0.0, 0.0], [1e-320, -1e300]]],
    terminated=[[[False, True], [False, False]], [[True, False], [False, False]]],
    initial=[1 / 3, 2 / 3],
    gamma=0.9,
    horizon=4,
)


def fields_of(model):
    return {name: getattr(model, name) for name in (*FIELDS, "gamma", "horizon")}


def assert_same_bits(left, right):
    for name in FIELDS:
        assert left[name].dtype == right[name].dtype
        assert left[name].shape == right[name].shape
        assert left[name].tobytes() == right[name].tobytes()
    assert struct.pack("d", left["gamma"]) == struct.pack("d", right["gamma"])
    assert left["horizon"] == right["horizon"]
    assert type(left["horizon"]) is type(right["horizon"])


# --- round trips --------------------------------------------------------------------------------------------------

REALS = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def any_fields(draw):
    """Fields of any shape and any finite numbers; shrinks towards one state, action and outcome, all zero."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)))
    n = int(np.prod(shape))

    def array(elements, dtype, size=n, shape=shape):
        return np.array(draw(st.lists(elements, min_size=size, max_size=size)), dtype=dtype).reshape(shape)

    return {
        "probability": array(st.just(0.0) | st.floats(0, 1), np.float64),  # the form is tested here, not the sums
        "next_state": array(st.integers(0, shape[0] - 1), np.intp),
        "reward": array(st.just(0.0) | REALS, np.float64),
        "terminated": array(st.booleans(), np.bool_),
        "initial": array(st.floats(0, 1), np.float64, shape[0], shape[:1]),
        "gamma": draw(st.floats(0, 1)),
        "horizon": draw(st.none() | st.integers(0, 2**63 - 1)),
    }


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip_is_exact(suffix, tmp_path):
    path = str(tmp_path / f"model{suffix}")

    @SETTINGS
    @given(any_fields())
    def round_trip(fields):
        files.write(path, fields)
        assert_same_bits(files.read(path), fields)

    round_trip()
    assert os.listdir(tmp_path) == [f"model{suffix}"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("horizon", [None, 0, 7])
def test_model_round_trip(suffix, horizon, tmp_path):
    model = MODEL.replace(horizon=horizon)
    path = tmp_path / f"model{suffix.upper()}"
    model.save(path)
    assert_same_bits(fields_of(mdp.FiniteMDP.load(path)), fields_of(model))
    assert not mdp.FiniteMDP.load(path).reward.flags.writeable


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_models_are_equal_files(suffix, tmp_path):
    for name in "ab":
        MODEL.save(tmp_path / (name + suffix))
    assert (tmp_path / ("a" + suffix)).read_bytes() == (tmp_path / ("b" + suffix)).read_bytes()


def test_members_above_the_limit_are_stored_and_read(tmp_path, monkeypatch):
    monkeypatch.setattr(as_npz, "SMALL", 100)  # a model of zeros compresses far more than MAX_RATIO
    shape = (500, 2, 2)
    zeros = {name: np.zeros(shape) for name in ("probability", "reward")}
    zeros |= {"next_state": np.zeros(shape, np.intp), "terminated": np.zeros(shape, bool), "initial": np.zeros(500)}
    path = str(tmp_path / "zeros.npz")
    files.write(path, {**zeros, "gamma": 0.0, "horizon": None})
    assert_same_bits(files.read(path), {**zeros, "gamma": 0.0, "horizon": None})
    with zipfile.ZipFile(path) as archive:
        kinds = {info.filename: info.compress_type for info in archive.infolist()}
    assert kinds["reward.npy"] == zipfile.ZIP_STORED
    assert kinds["gamma.npy"] == zipfile.ZIP_DEFLATED


def test_npz_is_what_numpy_reads_and_writes(tmp_path):
    MODEL.save(tmp_path / "ours.npz")
    with np.load(tmp_path / "ours.npz", allow_pickle=False) as archive:
        members = dict(archive)
    assert set(members) == set(as_npz.MEMBERS)
    for save in (np.savez, np.savez_compressed):
        members["reward"] = np.asfortranarray(members["reward"])
        save(tmp_path / "theirs.npz", **members)
        assert_same_bits(files.read(str(tmp_path / "theirs.npz")), fields_of(MODEL))


def test_json_is_readable(tmp_path):
    MODEL.save(tmp_path / "model.json")
    assert (tmp_path / "model.json").read_text() == (
        "{\n"
        '  "format": "reinforce_np.FiniteMDP",\n'
        '  "version": 1,\n'
        '  "gamma": 0.9,\n'
        '  "horizon": 4,\n'
        '  "n_states": 2,\n'
        '  "n_actions": 2,\n'
        '  "n_outcomes": 2,\n'
        '  "initial": [0.3333333333333333, 0.6666666666666666],\n'
        '  "outcome": ["probability", "next_state", "reward", "terminated"],\n'
        '  "table": [\n'
        '    {"state": 0, "action": 0, "outcomes": [[0.5, 0, 1.0, false], [0.5, 1, -0.0, true]]},\n'
        '    {"state": 0, "action": 1, "outcomes": [[1.0, 1, 2.5, false]]},\n'
        '    {"state": 1, "action": 0, "outcomes": [[1.0, 1, 0.0, true]]},\n'
        '    {"state": 1, "action": 1, "outcomes": [[0.1, 0, 1e-320, false], [0.9, 1, -1e+300, false]]}\n'
        "  ]\n"
        "}\n"
    )


def test_json_of_the_module_docstring_loads(tmp_path):
    text = as_json.__doc__
    (tmp_path / "model.json").write_text(text[text.index("    {\n") : text.index("    }\n")] + "}")
    model = mdp.FiniteMDP.load(tmp_path / "model.json")
    assert model.horizon is None
    assert model.next_state.tolist() == [[[0, 1]], [[1, 1]]]


def test_json_by_hand(tmp_path):
    """Integers for numbers, ragged rows, lines and keys in any order, a byte-order mark."""
    document = {
        "version": 1,
        "format": "reinforce_np.FiniteMDP",
        "table": [
            {"action": 0, "state": 1, "outcomes": [[1, 1, 0, True]]},
            {"outcomes": [[0.25, 0, -1, False], [0.75, 1, 2, False]], "state": 0, "action": 0},
        ],
        "outcome": ["probability", "next_state", "reward", "terminated"],
        "n_states": 2,
        "n_actions": 1,
        "n_outcomes": 3,
        "initial": [1, 0],
        "gamma": 1,
        "horizon": 5,
    }
    (tmp_path / "hand.json").write_text(json.dumps(document), encoding="utf-8-sig")
    model = mdp.FiniteMDP.load(tmp_path / "hand.json")
    assert model.probability.tolist() == [[[0.25, 0.75, 0.0]], [[1.0, 0.0, 0.0]]]
    assert model.next_state.tolist() == [[[0, 1, 0]], [[1, 1, 1]]]
    assert model.reward.tolist() == [[[-1.0, 2.0, 0.0]], [[0.0, 0.0, 0.0]]]
    assert model.terminated.tolist() == [[[False, False, False]], [[True, False, False]]]
    assert model.gamma == 1.0
    assert model.horizon == 5


# --- whole or not at all ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_failed_write_leaves_the_old_file(suffix, failing, tmp_path, monkeypatch):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"old")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="disk full"):
        MODEL.save(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.json"
    path.write_bytes(b"old")

    def interrupt(fields):
        yield {"state": 0}
        assert len(os.listdir(tmp_path)) == 2  # the temporary file is in the same folder
        raise KeyboardInterrupt

    monkeypatch.setattr(as_json, "_lines", interrupt)
    with pytest.raises(KeyboardInterrupt):
        MODEL.save(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.json"]


def test_nan_is_not_written_as_json(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write(str(tmp_path / "model.json"), {**fields_of(MODEL), "gamma": float("nan")})
    assert os.listdir(tmp_path) == []


def test_write_replaces_and_follows_links(tmp_path):
    (tmp_path / "model.json").write_text("old")
    os.symlink("model.json", tmp_path / "link.json")
    MODEL.save(tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert_same_bits(files.read(str(tmp_path / "model.json")), fields_of(MODEL))


def test_write_refuses(tmp_path, monkeypatch):
    for name in ("model.pkl", "model", "model.npz.gz"):
        with pytest.raises(ValueError, match=r"path=.*model.* has suffix .*; it must end in .npz or .json"):
            MODEL.save(tmp_path / name)
        with pytest.raises(ValueError, match="has suffix"):
            mdp.FiniteMDP.load(tmp_path / name)
    with pytest.raises(ValueError, match=f"horizon={2**63} does not fit a file"):
        MODEL.replace(horizon=2**63).save(tmp_path / "model.npz")
    with pytest.raises(FileNotFoundError, match=r"no_such_folder.model\.npz"):
        MODEL.save(tmp_path / "no_such_folder" / "model.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(OSError, match=r"folder\.npz"):
        MODEL.save(tmp_path / "folder.npz")
    with monkeypatch.context() as patch:
        patch.setattr(common, "MAX_ARRAY_BYTES", 100)
        with pytest.raises(ValueError, match=r"\(2, 2, 2\) outcomes take 216 bytes, more than the 100"):
            MODEL.save(tmp_path / "model.npz")
    with monkeypatch.context() as patch:
        patch.setattr(as_json, "MAX_BYTES", 500)
        with pytest.raises(ValueError, match=r"more than 500 bytes of JSON; save it as \.npz"):
            MODEL.save(tmp_path / "model.json")
    assert os.listdir(tmp_path) == ["folder.npz"]


# --- reading: what stays an OSError, and what the path itself says ------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_paths(suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    with pytest.raises(FileNotFoundError):
        mdp.FiniteMDP.load(path)
    path.write_bytes(b"")
    with pytest.raises(arguments.FileFormatError, match=r"model.*: the file is empty"):
        mdp.FiniteMDP.load(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(arguments.FileFormatError, match=r"model.*: it is a directory; pass the path"):
        mdp.FiniteMDP.load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_do_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(arguments.FileFormatError, match=r"pipe\.json: it is not a regular file"):
        files.read(str(tmp_path / "pipe.json"))


def test_denied_reading_stays_an_oserror(tmp_path, monkeypatch):
    MODEL.save(tmp_path / "model.json")

    def denied(*args, **kwargs):  # root may read everything, so permissions alone would not show it
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(PermissionError):
        files.read(str(tmp_path / "model.json"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_above_the_limit(suffix, tmp_path, monkeypatch):
    MODEL.save(tmp_path / f"model{suffix}")
    for form in (as_npz, as_json):
        monkeypatch.setattr(form, "MAX_BYTES", 200)
    with pytest.raises(arguments.FileFormatError, match="the file has more than 200 bytes"):
        files.read(str(tmp_path / f"model{suffix}"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bad_values_are_a_format_error_of_load(suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    files.write(str(path), {**fields_of(MODEL), "probability": MODEL.probability / 2})
    with pytest.raises(arguments.FileFormatError, match=r"model.*: probability\[0, 0\] sums to 0.5"):
        mdp.FiniteMDP.load(path)


# --- reading: npz -------------------------------------------------------------------------------------------------


def npy(array):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), allow_pickle=True)
    return stream.getvalue()


def header(text, data=b"", version=1):
    size = len(text).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode() + data


def members_of_model():
    values = {**fields_of(MODEL), "format_version": 1, "horizon": np.array([4])}
    return {f"{name}.npy": npy(values[name]) for name in as_npz.MEMBERS}


def archive_of(members, **options):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **options) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return stream.getvalue()


def refused(tmp_path, suffix, data, message):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(data)
    with pytest.raises(arguments.FileFormatError, match=message) as caught:
        mdp.FiniteMDP.load(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 800


def test_archive_made_here_is_read(tmp_path):
    (tmp_path / "model.npz").write_bytes(archive_of(members_of_model().items()))
    assert_same_bits(files.read(str(tmp_path / "model.npz")), fields_of(MODEL))


F8 = "{'descr': '<f8', 'fortran_order': False, 'shape': "
CHANGED_MEMBERS = {
    "pickle": ("reward", npy(np.array([[[None]]], dtype=object)), r"reward.npy' has dtype '\|O'"),
    "terabytes": (
        "reward",
        header(F8 + "(1099511627776, 1, 1), }\n"),
        r"reward.npy' claims shape \(1099511627776, 1, 1\)",
    ),
    "terabytes, 2.0": ("reward", header(F8 + "(99999, 99999, 999), }\n", version=2), "reward.npy' claims shape"),
    "absurd axis": ("reward", header(F8 + f"({'9' * 30}, 1, 1), }}\n"), "reward.npy' has a damaged or foreign"),
    "negative axis": ("reward", header(F8 + "(-1, 1, 1), }\n"), "reward.npy' has a damaged or foreign"),
    "deep header": ("reward", header("(" * 60000), "reward.npy' has a damaged or foreign"),
    "code": ("reward", header("__import__('os').abort()\n"), "reward.npy' has a damaged or foreign"),
    "long header": ("reward", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "reward.npy' has a damaged or foreign"),
    "no magic": ("reward", b"PK\x03\x04 etc", "reward.npy' is not an .npy array"),
    "npy 9.0": ("reward", b"\x93NUMPY\x09\x00", "reward.npy' is not an .npy array of a known version"),
    "empty": ("reward", b"", "reward.npy' is not an .npy array"),
    "one byte short": ("reward", npy(MODEL.reward)[:-1], "reward.npy' claims shape .* 64 bytes, but holds 63"),
    "one byte long": ("reward", npy(MODEL.reward) + b"x", "reward.npy' claims .* but holds 65"),
    "single precision": ("reward", npy(np.zeros((2, 2, 2), "f4")), "reward.npy' has dtype '<f4'; it must be '<f8'"),
    "big-endian": ("reward", npy(MODEL.reward.astype(">f8")), "reward.npy' has dtype '>f8'"),
    "complex": ("reward", npy(MODEL.reward + 0j), "reward.npy' has dtype '<c16'"),
    "string": ("reward", npy(MODEL.reward.astype(str)), "reward.npy' has dtype '<U"),
    "structured": ("reward", npy(np.zeros(2, dtype="i4,f4")), "reward.npy' has a damaged or foreign"),
    "float states": ("next_state", npy(MODEL.next_state * 1.0), "next_state.npy' has dtype '<f8'; it must be '<i8'"),
    "integer ends": ("terminated", npy(MODEL.terminated.astype("u1")), r"terminated.npy' has dtype '\|u1'"),
    "odd booleans": (
        "terminated",
        npy(MODEL.terminated)[:-1] + b"\x02",
        "terminated.npy' holds bytes that are neither",
    ),
    "two axes": ("reward", npy(MODEL.reward[0]), "reward.npy' has 2 axes; it must have 3"),
    "gamma list": ("gamma", npy([0.9]), "gamma.npy' has 1 axes; it must have 0"),
    "two horizons": ("horizon", npy([1, 2]), "horizon has 2 entries"),
    "version 2": ("format_version", npy(2), "format version 2 is unknown; this release reads version 1"),
    "other shape": ("reward", npy(MODEL.reward[:1]), r"reward has shape \(1, 2, 2\)"),
    "nan": ("gamma", npy(np.nan), "gamma=nan is out of range"),
    "nan reward": ("reward", npy(np.full((2, 2, 2), np.nan)), r"reward\[0, 0, 0\]=nan"),
    "state out of range": ("next_state", npy(MODEL.next_state + 1), r"next_state\[0, 0, 1\]=2 is out of range"),
    "negative horizon": ("horizon", npy([-1]), "horizon=-1 is out of range"),
}


@pytest.mark.parametrize("case", CHANGED_MEMBERS)
def test_npz_members_refused(case, tmp_path):
    name, data, message = CHANGED_MEMBERS[case]
    refused(tmp_path, ".npz", archive_of({**members_of_model(), f"{name}.npy": data}.items()), message)


def test_pickles_are_never_opened(tmp_path, monkeypatch):
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(f"pickle.{name}", None)
    data = npy(np.array([[[print]]], dtype=object))
    refused(tmp_path, ".npz", archive_of({**members_of_model(), "reward.npy": data}.items()), "has dtype")


@pytest.mark.parametrize("name", [f"{name}.npy" for name in as_npz.MEMBERS])
def test_npz_missing_member(name, tmp_path):
    members = members_of_model()
    del members[name]
    refused(tmp_path, ".npz", archive_of(members.items()), f"missing member '{name}'")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_npz_structure_refused(tmp_path):
    members = list(members_of_model().items())
    good = archive_of(members)
    refused(tmp_path, ".npz", archive_of([*members, ("evil.npy", b"")]), "unknown member 'evil.npy'")
    refused(tmp_path, ".npz", archive_of([*members, ("../x", b"")]), r"unknown member '\.\./x'")
    refused(tmp_path, ".npz", archive_of([*members, members[2]]), "duplicate member 'next_state.npy'")
    refused(tmp_path, ".npz", archive_of(members, compression=zipfile.ZIP_BZIP2), "compression 12, not 0 or 8")
    refused(tmp_path, ".npz", archive_of(members, compression=zipfile.ZIP_LZMA), "compression 14, not 0 or 8")
    refused(tmp_path, ".npz", archive_of([]), "missing member 'format_version.npy'")
    refused(tmp_path, ".npz", npy(MODEL.reward), "not an intact .npz archive")
    refused(tmp_path, ".npz", b"garbage" * 100, r"not an intact .npz archive \(BadZipFile")
    for end in (1, 4, 50, len(good) // 2, len(good) - 30, len(good) - 1):
        refused(tmp_path, ".npz", good[:end], "not an intact .npz archive")


def directory_field(data, offset, fmt, value):
    """The archive `data` with one field of its first directory entry overwritten."""
    start = data.index(b"PK\x01\x02") + offset
    return data[:start] + struct.pack(fmt, value) + data[start + struct.calcsize(fmt) :]


def test_npz_directory_lies(tmp_path):
    good = archive_of(members_of_model().items())
    refused(tmp_path, ".npz", directory_field(good, 8, "<H", 1), "'format_version.npy' is encrypted")
    refused(tmp_path, ".npz", directory_field(good, 10, "<H", 99), "compression 99")
    refused(tmp_path, ".npz", directory_field(good, 16, "<I", 1), r"not an intact .*Bad CRC-32")
    refused(tmp_path, ".npz", directory_field(good, 24, "<I", 2**32 - 2), "expands from .* to 4294967294 bytes")
    refused(tmp_path, ".npz", directory_field(good, 24, "<I", 2**20), "holds 136 bytes; the directory says 1048576")
    refused(tmp_path, ".npz", directory_field(good, 42, "<I", 2**31), "not an intact")
    both = directory_field(directory_field(good, 24, "<I", 2**32 - 2), 20, "<I", 2**32 - 2)
    refused(tmp_path, ".npz", both, "the members hold .* more than the 1073741824 allowed")


def test_npz_bomb(tmp_path):
    """20 MB of zeros in 20 kB, with an honest header: refused by its ratio before it is expanded."""
    count = 20 * 2**20 // 8
    bomb = {**members_of_model(), "reward.npy": header(F8 + f"({count}, 1, 1), }}\n", bytes(8 * count))}
    data = archive_of(bomb.items(), compression=zipfile.ZIP_DEFLATED)
    assert len(data) < 2**16
    refused(tmp_path, ".npz", data, r"'reward.npy' expands from \d+ to \d+ bytes, more than 100 times")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_bytes_never_leak_another_error(suffix, tmp_path):
    """Flipped, cut and swapped bytes: either the file still makes a model, or a FileFormatError."""
    path = tmp_path / f"model{suffix}"
    MODEL.save(path)
    good = path.read_bytes()
    rng = np.random.default_rng(5)
    messages = []
    for _ in range(600):
        data = bytearray(good)
        for position in rng.integers(len(data), size=rng.integers(1, 4)):
            data[position] = rng.integers(256)
        if rng.random() < 0.2:
            del data[rng.integers(len(data)) :]
        path.write_bytes(bytes(data) or b"x")
        try:
            mdp.FiniteMDP.load(path)
        except arguments.FileFormatError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert all(str(path) in message for message in messages)


# --- reading: JSON ------------------------------------------------------------------------------------------------


def model_text(tmp_path):
    MODEL.save(tmp_path / "good.json")
    return (tmp_path / "good.json").read_text()


REPLACEMENTS = [
    ('"gamma": 0.9', '"gamma": NaN', "NaN is not a JSON number"),
    ('"gamma": 0.9', '"gamma": -Infinity', "-Infinity is not a JSON number"),
    ('"gamma": 0.9', '"gamma": 1e999', "1e999 is too large for a float"),
    ('"gamma": 0.9', '"gamma": -1e999', "-1e999 is too large for a float"),
    ('"gamma": 0.9', '"gamma": 0.9, "gamma": 0.5', "duplicate key 'gamma'"),
    ('"gamma": 0.9', '"gamma": "0.9"', "\"gamma\" is '0.9'; it must be a number"),
    ('"gamma": 0.9', '"gamma": true', '"gamma" is True; it must be a number'),
    ('"gamma": 0.9', '"gamma": 1.5', "gamma=1.5 is out of range"),
    ('"gamma": 0.9,', "", "missing key 'gamma'"),
    ('"gamma": 0.9', '"gamma": 0.9, "note": 1', "unknown key 'note'"),
    ('"gamma": 0.9', '"gamma": 0.9, "' + "x" * 9999 + '": 1', r"unknown key 'xx+\.\.\."),
    ('"gamma": 0.9', '"gamma": 1' + "0" * 5000, r"1000.*\.\.\. is too large; whole numbers must fit 64 bits"),
    ('"gamma": 0.9', '"gamma": 0.9 "x"', r"not valid JSON: .*line 4 column"),
    ('"gamma": 0.9', '"gamma": ' + "[" * 100000 + "]" * 100000, r"too deep or too large to read \(RecursionError"),
    ('"gamma": 0.9', '"gamma": ' + '{"a":' * 100000 + "1" + "}" * 100000, "too deep or too large"),
    ('"horizon": 4', '"horizon": 4.0', '"horizon" is a number; it must be a whole number or null'),
    ('"horizon": 4', '"horizon": true', '"horizon" is true or false'),
    ('"horizon": 4', '"horizon": -4', "horizon=-4 is out of range"),
    ('"horizon": 4', '"horizon": 9223372036854775808', "9223372036854775808 is too large"),
    ('"version": 1', '"version": 2', "format version 2 is unknown; this release reads version 1"),
    ('"version": 1', '"version": true', "format version True is unknown"),
    ('"version": 1,', "", "format version None is unknown"),
    ("reinforce_np.FiniteMDP", "pickle", "\"format\" is 'pickle'; it must be 'reinforce_np.FiniteMDP'"),
    ('["probability", "next_state"', '["next_state", "probability"', r'"outcome" is \[\'next_state\''),
    ('"n_states": 2', '"n_states": 0', '"n_states" is 0; it must be a whole number of at least 1'),
    ('"n_states": 2', '"n_states": 2.0', '"n_states" is 2.0; it must be a whole number'),
    ('"n_states": 2', '"n_states": 3', '"table" has 4 lines; it must have 6'),
    ('"n_states": 2', '"n_states": 1000000000000', "more than the 1073741824 that a file may hold"),
    ('"n_outcomes": 2', '"n_outcomes": 1000000000000', r"\(2, 2, 1000000000000\) outcomes take .* bytes"),
    ('"n_outcomes": 2', '"n_outcomes": 1', 'state 0, action 0: "outcomes" has 2 entries; .* at most 1'),
    ("[0.3333333333333333, 0.6666666666666666]", "1", '"initial" is a number; it must be a list'),
    ("[0.3333333333333333, ", "[null, ", r'"initial"\[0\] is None; it must be a number'),
    ("[0.3333333333333333, ", "[", r"initial has shape \(1,\)"),
    ('"state": 1, "action": 0', '"state": 1, "action": 1', '"table" has two lines for state 1, action 1'),
    ('"state": 1, "action": 0', '"state": 2, "action": 0', r'"table"\[2\]: "state" is 2; .* in \[0, 1\]'),
    ('"state": 1, "action": 0', '"state": 1, "action": -1', r'"table"\[2\]: "action" is -1'),
    ('"state": 1, "action": 0', '"state": 1, "action": false', r'"action" is False'),
    ('"state": 1, "action": 0', '"state": 1', r"missing \"table\"\[2\] key 'action'"),
    ('"state": 1, "action": 0', '"state": 1, "action": 0, "p": 1', r"unknown \"table\"\[2\] key 'p'"),
    (
        "[[1.0, 1, 2.5, false]]",
        "[[1.0, 1, 2.5]]",
        r"state 0, action 1, outcome 0 is \[1.0, 1, 2.5\]; it must be \[prob",
    ),
    ("[[1.0, 1, 2.5, false]]", "[1.0]", "state 0, action 1, outcome 0 is 1.0"),
    ("[[1.0, 1, 2.5, false]]", "null", 'state 0, action 1: "outcomes" has null; it must be a list'),
    ("[[1.0, 1, 2.5, false]]", "[]", r"probability\[0, 1\] sums to 0.0"),
    ("[[1.0, 1, 2.5, false]]", "[[true, 1, 2.5, false]]", "outcome 0: probability is True; it must be a number"),
    ("[[1.0, 1, 2.5, false]]", "[[1.0, 1.0, 2.5, false]]", "outcome 0: next_state is 1.0; it must be a whole number"),
    ("[[1.0, 1, 2.5, false]]", "[[1.0, 7, 2.5, false]]", r"next_state\[0, 1, 0\]=7 is out of range"),
    ("[[1.0, 1, 2.5, false]]", '[[1.0, 1, "2.5", false]]', "outcome 0: reward is '2.5'"),
    ("[[1.0, 1, 2.5, false]]", "[[1.0, 1, 2.5, 0]]", "outcome 0: terminated is 0; it must be true or false"),
    (
        '    {"state": 0, "action": 0, "outcomes"',
        '    {"state": 0, "state": 0, "action": 0, "outcomes"',
        "duplicate key 'state'",
    ),
    ('    {"state": 0, "action": 0, "outcomes"', "    7, {", "not valid JSON"),
    ('{"state": 0, "action": 1, "outcomes": [[1.0, 1, 2.5, false]]}', "7", r'"table"\[1\] is a number, not an object'),
]


@pytest.mark.parametrize(("old", "new", "message"), REPLACEMENTS, ids=range(len(REPLACEMENTS)))
def test_json_refused(old, new, message, tmp_path):
    text = model_text(tmp_path)
    assert text.count(old) == 1
    refused(tmp_path, ".json", text.replace(old, new).encode(), message)


def test_json_tops_refused(tmp_path):
    good = model_text(tmp_path)
    for text, message in [
        ("[]", "the top level is a list, not an object"),
        ("null", "the top level is null"),
        ("7", "the top level is a number"),
        ('"x"', "the top level is a string"),
        ("{}", '"format" is None'),
        (" ", "not valid JSON"),
        (good + "x", "not valid JSON: Extra data"),
        (good[:-3], "not valid JSON"),
        ("[" * 10**6, "too deep or too large"),
    ]:
        refused(tmp_path, ".json", text.encode(), message)
    refused(tmp_path, ".json", good.encode().replace(b"0.9", b"\xff"), r"not UTF-8 text \(invalid start byte at byte")
    refused(tmp_path, ".json", good.encode("utf-16"), "not UTF-8 text")
    table = json.dumps({**json.loads(good), "table": {}})
    refused(tmp_path, ".json", table.encode(), '"table" has an object; it must have 4')


def test_an_interrupt_just_after_the_file_was_renamed_is_that_interrupt(tmp_path, monkeypatch):
    rename, path = os.replace, tmp_path / "file"

    def interrupted(*names):
        rename(*names)
        raise KeyboardInterrupt

    monkeypatch.setattr(disk.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), disk.replacing(path) as stream:
        stream.write(b"whole")
    assert path.read_bytes() == b"whole"


def test_an_interrupt_between_a_file_and_its_first_byte_leaves_nothing_behind(tmp_path, monkeypatch):
    def stopped(*arguments):
        open(*arguments).close()
        raise KeyboardInterrupt

    monkeypatch.setattr(disk, "open", stopped, raising=False)
    with pytest.raises(KeyboardInterrupt), disk.replacing(tmp_path / "run.npz"):
        pass
    assert list(tmp_path.iterdir()) == []
