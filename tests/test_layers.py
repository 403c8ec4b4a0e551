"""House style that can be executed: imports never go up, NumPy is enough, every public name is documented."""

import ast
import functools
import inspect
import json
import pathlib
import re
import subprocess
import sys

import pytest

import reinforce_np
from reinforce_np import exact

ROOT = pathlib.Path(reinforce_np.__file__).parent
LEAF = "arguments"  # below every layer: checks of arguments, and the error types
ENTRY = "__main__"  # above every layer


@functools.cache
def layers():
    """The layer of each module, read from the picture in the package's docstring: the lines `names    description`."""
    lines = re.findall(r"^    (\w+(?:, \w+)*)  +\S", reinforce_np.__doc__, flags=re.MULTILINE)
    return {LEAF: -1, ENTRY: len(lines)} | {name: i for i, line in enumerate(lines) for name in line.split(", ")}


def modules():
    """The files of the package except its front page, by layer name: (first part of the dotted name, path)."""
    files = [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]
    return [(path.relative_to(ROOT).parts[0].removesuffix(".py"), path) for path in files]


def imported(path):
    """The full names of everything a file imports, also inside functions: `from a import b` gives a.b."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: line {node.lineno} is a relative import; write the full name"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def parts(path):
    """The layers a file imports from."""
    names = [name.split(".") for name in imported(path)]
    return {name[1] for name in names if name[0] == "reinforce_np" and len(name) > 1}


def test_the_picture_of_the_layers_is_read():
    order = layers()
    assert order["mdp"] < order["examples"] < order["policies"] < order["trajectories"] < order["sampling"]
    assert order["sampling"] == order["enumeration"] < order["estimators"] < order["exact"] < order["checks"]
    assert order["checks"] < order["command_line"]


def test_every_module_is_in_the_picture():
    assert {name for name, _ in modules()} <= layers().keys()


@pytest.mark.parametrize("path", [str(path.relative_to(ROOT)) for _, path in modules()])
def test_imports_never_go_up(path):
    order = layers()
    own = pathlib.Path(path).parts[0].removesuffix(".py")
    for part in parts(ROOT / path):
        assert part in order, f"{path} imports {part}, which is no module"
        assert order[part] <= order[own], f"{path} imports {part}, a later layer"


def test_a_forbidden_import_would_be_seen(tmp_path):
    """The negative control, also for an import inside a function."""
    module = tmp_path / "policies.py"
    module.write_text("def f():\n    from reinforce_np.exact import values\n    from reinforce_np import checks\n")
    assert parts(module) == {"exact", "checks"}


def run(code):
    """What a fresh interpreter prints, as JSON."""
    command = [sys.executable, "-c", code]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT.parent).stdout)


def test_importing_the_package_imports_only_numpy_and_the_standard_library():
    code = """
import json, sys
import numpy
before = set(sys.modules)
import reinforce_np
alone = [name for name in sys.modules if name.startswith("reinforce_np")]
for name in reinforce_np.__all__:
    getattr(reinforce_np, name)
print(json.dumps([alone, sorted({name.split(".")[0] for name in set(sys.modules) - before})]))
"""
    alone, new = run(code)
    assert alone == ["reinforce_np"]  # the rest is imported when it is asked for
    assert "reinforce_np" in new
    assert set(new) <= {"reinforce_np", "numpy"} | sys.stdlib_module_names


@pytest.mark.parametrize("name", ["algorithms", "features", "optimisers"])
def test_a_module_from_further_down_can_be_imported_first(name):
    """Of a fresh interpreter: what another module has imported before does not count."""
    assert run(f"import json; from reinforce_np import {name}; print(json.dumps({name}.__name__))").endswith(f".{name}")


def test_optional_packages_are_not_imported():
    code = "import json, sys; from reinforce_np import *; print(json.dumps(sorted(sys.modules)))"
    assert not {
        "gymnasium",
        "matplotlib",
        "tqdm",
        "scipy",
        "pytest",
        "hypothesis",
    } & set(run(code))


# Docstrings.


def public():
    """Every public function and class, by name."""
    names = getattr(
        reinforce_np,
        "__all__",
        [name for name in vars(reinforce_np) if not name.startswith("_")],
    )
    found = {f"reinforce_np.{name}": getattr(reinforce_np, name) for name in names}
    found |= {f"exact.{name}": getattr(exact, name) for name in exact.__all__}
    ours = {name: item for name, item in found.items() if getattr(item, "__module__", "").startswith("reinforce_np")}
    return {name: item for name, item in ours.items() if inspect.isfunction(item) or inspect.isclass(item)}


def sections(item):
    """The underlined headings of a numpydoc docstring."""
    return re.findall(r"^(\w[\w ]*)\n-{3,}$", inspect.getdoc(item) or "", flags=re.MULTILINE)


def is_error(item):
    """Whether a class is an exception, which needs no more than a sentence."""
    return inspect.isclass(item) and issubclass(item, Exception)


def test_the_public_names_are_found():
    assert {
        "reinforce_np.FiniteMDP",
        "reinforce_np.enumerate_trajectories",
        "exact.gradient",
    } <= public().keys()


@pytest.mark.parametrize("name", public())
def test_the_docstring_has_its_sections(name):
    item = public()[name]
    first = (inspect.getdoc(item) or "").partition("\n")[0]
    assert first.endswith((".", ":")) or "=" in first or "," in first, f"{first!r} is not a sentence or a formula"
    if is_error(item):
        return
    found = sections(item)
    arguments = [p for p in inspect.signature(item).parameters if p != "self"]
    if arguments:
        assert "Parameters" in found
    if inspect.isfunction(item):
        assert "Returns" in found or "Yields" in found
    maker = RESULTS.get(name)
    if maker is not None:
        assert name.split(".")[1] in inspect.getdoc(maker).partition("Returns\n")[2]
        assert "Examples" in sections(maker)
        return
    assert "Examples" in found
    assert ">>>" in inspect.getdoc(item)


RESULTS = {
    "exact.Moments": exact.moments_by_enumeration,
    "exact.Verdict": exact.judge,
    "reinforce_np.StreamedGradient": reinforce_np.stream_gradient,
}  # whose example is their maker's


@pytest.mark.parametrize("name", [name for name, item in public().items() if inspect.isfunction(item)])
def test_every_parameter_is_described(name):
    """Each is named on a line of its own in the section; `As in ...` lists several."""
    item = public()[name]
    text = inspect.getdoc(item).partition("Parameters\n")[2].partition("\n\nReturns")[0].partition("\n\nYields")[0]
    described = {
        word
        for line in re.findall(r"^(\w[\w, ]*?)(?: : .*)?$", text, flags=re.MULTILINE)
        for word in re.split(r",\s*", line)
    }
    assert set(inspect.signature(item).parameters) <= described


def test_the_front_page_says_what_the_package_exports():
    """Nothing but the package's own names, and modules, can be imported from it; what it has not is missed as usual."""
    assert (
        {"Estimator", "GAE", "exact", "train", "TooLargeError", "sample"}
        <= set(reinforce_np.__all__)
        <= set(dir(reinforce_np))
    )
    assert reinforce_np.policies.TabularSoftmax is reinforce_np.TabularSoftmax
    for missing in ("nothing", "_nothing"):
        with pytest.raises(AttributeError, match=f"module 'reinforce_np' has no attribute '{missing}'"):
            getattr(reinforce_np, missing)
    for name in (name for name in vars(reinforce_np) if not name.startswith("_")):
        item = getattr(reinforce_np, name)
        assert (item.__name__ if inspect.ismodule(item) else item.__module__).startswith("reinforce_np"), name
