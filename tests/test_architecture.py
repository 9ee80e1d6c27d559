"""The direction of imports and the shape of the source, read off every file's syntax tree."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("harness", "reference", "candidate", "reports", "fixtures")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")) if "out" not in path.parts]
EVERYTHING = SOURCES + sorted((ROOT / "tests").rglob("*.py"))
# Whom a package may import besides itself.
ALLOWED = {
    "harness": set(),
    "reference": {"harness"},
    "candidate": set(),
    "reports": {"harness"},
    "fixtures": {"harness", "reference", "candidate", "reports"},
}
# The composition root, and the files of the candidates that know the instrument.
ALLOWED_FILES = {
    "harness/cli/main.py": {"reports"},
    "candidate/adapter.py": {"harness"},
    "candidate/fastvideo/adapter.py": {"harness"},
    "candidate/fastvideo/port.py": {"harness"},
    "candidate/fastvideo/source.py": {"harness"},
}
PROCESS_WIDE = {
    "manual_seed",
    "set_default_device",
    "set_default_dtype",
    "set_deterministic_debug_mode",
    "set_float32_matmul_precision",
    "set_flush_denormal",
    "set_grad_enabled",
    "set_num_interop_threads",
    "set_num_threads",
    "set_printoptions",
    "set_stance",
    "use_deterministic_algorithms",
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def imported(path: Path) -> set[str]:
    """The packages of ours that a file imports, wherever in it, also where it asks for them by a string."""
    names: list[str] = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno} imports relatively"
            names.append(node.module or "")
        elif isinstance(node, ast.Call) and "import" in called(node) and node.args:
            argument = node.args[0]
            names += [argument.value] if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else []
    return {name.partition(".")[0] for name in names} & {*PACKAGES, "tests"}


def called(node: ast.Call) -> str:
    """The last part of the name that a call calls."""
    function = node.func
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Every node that runs when the module is imported: all but the bodies of functions."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending += [*node.decorator_list, *node.args.defaults]
        elif not isinstance(node, ast.Lambda):
            pending += ast.iter_child_nodes(node)


def sets_process_wide(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return called(node) in PROCESS_WIDE
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any("torch.backends" in ast.unparse(target) or "environ" in ast.unparse(target) for target in targets)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_package_imports_only_whom_it_may(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    allowed = {package} | ALLOWED[package] | ALLOWED_FILES.get(name_of(path), set())
    assert imported(path) <= allowed


def test_reference_and_candidate_share_nothing() -> None:
    by_package = {
        package: set().union(*(imported(path) for path in (ROOT / package).rglob("*.py")))
        for package in ("reference", "candidate")
    }
    assert "candidate" not in by_package["reference"]
    assert "reference" not in by_package["candidate"]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_sets_a_flag_of_the_process_when_it_is_imported(path: Path) -> None:
    setting = [ast.unparse(node) for node in at_import(parsed(path)) if sets_process_wide(node)]
    assert setting == []


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_a_file_fits_in_the_head(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 300
    functions = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [function.name for function in functions if (function.end_lineno or 0) - function.lineno + 1 > 60]
    assert long == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import reference.eager", {"reference"}),
        ("from candidate.model import WorldModel", {"candidate"}),
        ("def late():\n    from reports import summary", {"reports"}),
        ("import importlib\nimportlib.import_module('reference.eager')", {"reference"}),
        ("import torch", set()),
    ],
)
def test_an_import_is_found_wherever_it_is(tmp_path: Path, source: str, found: set[str]) -> None:
    (tmp_path / "module.py").write_text(source)
    assert imported(tmp_path / "module.py") == found


@pytest.mark.parametrize(
    ("source", "sets"),
    [
        ("torch.set_float32_matmul_precision('high')", True),
        ("if True:\n    torch.manual_seed(0)", True),
        ("class A:\n    torch.set_num_threads(1)", True),
        ("torch.backends.cuda.matmul.allow_tf32 = True", True),
        ("os.environ['OMP_NUM_THREADS'] = '1'", True),
        ("def run(seed=torch.manual_seed(0)): ...", True),
        ("def run():\n    torch.set_num_threads(1)", False),
        ("draw = torch.Generator()", False),
    ],
)
def test_a_flag_that_is_set_at_import_is_found(source: str, sets: bool) -> None:
    assert any(sets_process_wide(node) for node in at_import(ast.parse(source))) is sets


def test_the_rules_are_held_against_every_package() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(PACKAGES)
