"""The rules of the house, read off every file's syntax tree: each test holds one rule and lists what breaks it."""

import ast
import dataclasses
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from waypoint_parity.harness.families.waypoint.config import AutoencoderConfig, TransformerConfig
from waypoint_parity.harness.families.waypoint.family import FAMILY as WAYPOINT
from waypoint_parity.harness.run.sites import Kind

ROOT = Path(__file__).parents[1]
NAME = "waypoint_parity"
PACKAGES = ("harness", "reference", "candidate", "reports", "fixtures")
# Whom a package may import besides itself.
ALLOWED = {
    "harness": set(),
    "reference": {"harness"},
    "candidate": set(),
    "reports": {"harness"},
    "fixtures": {"harness", "reference", "candidate", "reports"},
}
# In the order in which data flow through them: a room imports itself and those before it.
ROOMS = ("run", "checkpoint", "record", "compare", "judge", "families", "explain", "sweep", "api", "cli")
GROUND = ("errors", "files", "processes", "progress")
SAYS_NOTHING = ("assemble", "given", "lines", "places", "planned", "reach", "settings", "sifting", "utils")
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
BY_STRING = {"PackageLoader", "find_spec", "files", "import_module", "run_module"}
DOTTED = re.compile(rf"\b{NAME}(?:\.\w+)+")
IMPORTS_IN_TEXT = re.compile(r"(?:^|;|\n)\s*(?:import|from)\s+([\w.]+)")
# Tests that write packages of a user that are named as ours are.
OF_A_USER = {"tests.test_architecture", "tests.cli.test_namesakes"}


@dataclass(frozen=True)
class Found:
    """A module that a file names."""

    name: str
    line: int
    by: str  # "import" of a statement, "text" of a string
    typing: bool = False  # under TYPE_CHECKING


# --- the finder


def found(nodes: list[ast.AST]) -> Iterator[Found]:
    """Every module that a file names, wherever in it: by a statement, by a string, as an argument of `-m`."""
    prose = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    checked = {id(inner) for node in nodes if is_for_types(node) for inner in walked(node)}
    for node in nodes:
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (Found(name, line, "import", id(node) in checked) for name in names_of(node))
        elif isinstance(node, ast.Constant) and id(node) not in prose:
            yield from (Found(name, line, "text") for name in names_in(node.value))
        elif isinstance(node, ast.Call) and called(node) in BY_STRING:
            yield from (Found(name, line, "text") for name in texts(node.args[:1]))
        elif isinstance(node, ast.List | ast.Tuple | ast.Call):
            words = node.args if isinstance(node, ast.Call) else node.elts
            after = [word for flag, word in pairwise(words) if list(texts([flag])) == ["-m"]]
            yield from (Found(f"{name}.__main__", line, "text") for name in texts(after))


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def walked(tree: ast.AST) -> list[ast.AST]:
    """A tree's nodes, sooner than from `ast.walk`: this file takes as long as its slowest loop."""
    nodes = [tree]
    for node in nodes:
        for value in vars(node).values():
            if isinstance(value, list):
                nodes += [item for item in value if isinstance(item, ast.AST)]
            elif isinstance(value, ast.AST) and not isinstance(value, ast.expr_context):
                nodes.append(value)
    return nodes


def names_of(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names]


def names_in(text: object) -> list[str]:
    """The modules of ours that a string names, and those that it imports where it is a program."""
    if not isinstance(text, str):
        return []
    whole = re.fullmatch(rf"((?:{'|'.join(PACKAGES)})(?:\.\w+)+)(?::\w*)?", text)
    ours = [whole[1]] if whole and leads_to(f"{NAME}.{whole[1]}") not in PACKAGES else []
    return ours + DOTTED.findall(text) + [name for name in IMPORTS_IN_TEXT.findall(text) if is_bare(name)]


def texts(nodes: list[ast.expr]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def called(node: ast.Call) -> str:
    """The last part of the name that a call calls."""
    function = node.func
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Every node that runs when the module is imported: no body of a function, nothing under TYPE_CHECKING."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending += [*node.decorator_list, *node.args.defaults]
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
        elif not isinstance(node, ast.Lambda):
            pending += ast.iter_child_nodes(node)


def is_bare(name: str) -> bool:
    """Whether a name is that of a package of ours, without the name under which it is installed."""
    return name.partition(".")[0] in PACKAGES


def leads_to(name: str) -> str:
    """The module of ours that a dotted name lies in, without our own name; empty where it is not ours."""
    parts = name.split(".")
    if parts[0] != NAME:
        return ""
    while len(parts) > 1 and ".".join(parts[1:]) not in modules():
        parts.pop()
    return ".".join(parts[1:])


# --- the files


@cache
def modules() -> dict[str, Path]:
    """Every module of ours and its file, by its name without `waypoint_parity`."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if "out" not in path.parts]
    by_name = {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path for path in sorted(files)}
    ours = {name.removesuffix(".__init__"): path for name, path in by_name.items()}
    return ours | {"__main__": ROOT / ".namespace" / NAME / "__main__.py"}


@cache
def everything() -> dict[str, Path]:
    """Our modules, the tests and the sessions of nox."""
    tests = sorted((ROOT / "tests").rglob("*.py"))
    return modules() | {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path
        for path in [*tests, ROOT / "noxfile.py"]
    }


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    return walked(parsed(path))


@cache
def named(module: str) -> list[Found]:
    """What a module names; for `pyproject.toml`, what its entry points and settings name."""
    if module != "pyproject":
        return list(found(nodes_of(everything()[module])))
    pending: list[object] = [tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))]
    names: list[Found] = []
    while pending:
        value = pending.pop()
        if isinstance(value, dict | list):
            pending += value.values() if isinstance(value, dict) else value
        names += [Found(name, 0, "text") for name in names_in(value)]
    return names


@cache
def edges(*, running: bool = False) -> list[tuple[str, str]]:
    """Which module of ours names which other one; `running`: not counting what only types are checked with."""
    pairs = {
        (module, leads_to(item.name)) for module in modules() for item in named(module) if not (running and item.typing)
    }
    return sorted((module, other) for module, other in pairs if other and other != module)


def where(module: str, item: Found) -> str:
    return f"{module}:{item.line} names {item.name}"


# --- the direction


def package_of(module: str) -> str:
    """The package of a module; `python -m waypoint_parity` is the command line, and that is the instrument's."""
    return "harness" if module == "__main__" else module.partition(".")[0]


def is_adapter(module: str) -> bool:
    """Whether a module of the candidate knows the instrument: its adapter, and a folder that adapts somebody's port."""
    return module == "candidate.adapter" or (module.startswith("candidate.") and module.count(".") > 1)


def crosses_packages(module: str, other: str) -> bool:
    """Whether a package imports one that it may not."""
    allowed = {package_of(module), *ALLOWED[package_of(module)]}
    # The two doors.
    if module.startswith(("harness.cli.", "harness.api.")):
        allowed.add("reports")
    if is_adapter(module):
        allowed.add("harness")
    # What commands run on where nothing is given.
    if module == "harness.cli.defaults":
        allowed.add("fixtures")
    return package_of(other) not in allowed


def rank(module: str) -> int:
    """The place of a module of harness/ in the flow; -1 for the ground on which the rooms stand."""
    room = "cli" if module == "__main__" else module.removeprefix("harness").strip(".").partition(".")[0]
    return -1 if room in ("", *GROUND) else ROOMS.index(room)


def goes_upstream(module: str, other: str) -> bool:
    """Whether a room imports a later one. A program that is started is not imported."""
    inside = package_of(module) == package_of(other) == "harness" and other != "__main__"
    # Families are found by looking into their folder.
    looks = (module, other) == ("harness.run.family", "harness.families")
    return inside and rank(other) > rank(module) and not looks


def names_a_family(module: str, other: str) -> bool:
    """Whether the instrument or a document imports a family by its name: they reach it through the protocol in run/."""
    outside = package_of(module) in ("harness", "reports") and not module.startswith("harness.families")
    return outside and other.startswith("harness.families.")


RULES = (crosses_packages, goes_upstream, names_a_family)


def test_imports_follow_the_flow() -> None:
    assert [f"{module} -> {other}" for module, other in edges() if crosses_packages(module, other)] == []
    assert [f"{module} -> {other}" for module, other in edges() if names_a_family(module, other)] == []
    assert [f"{module} -> {other}" for module, other in edges(running=True) if goes_upstream(module, other)] == []


def test_reference_and_candidate_share_nothing() -> None:
    pair = {"reference", "candidate"}
    assert [edge for edge in edges() if {package_of(module) for module in edge} == pair] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    later = {
        module: {
            other
            for node in at_import(parsed(path))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for other in map(leads_to, names_of(node))
            if other
        }
        for module, path in modules().items()
    }
    assert in_circles(later) == []


def in_circles(later: dict[str, set[str]]) -> list[str]:
    """The modules from which one comes back to them."""

    def reached(module: str) -> set[str]:
        seen: set[str] = set()
        pending = [*later[module]]
        while pending:
            other = pending.pop()
            if other not in seen:
                seen.add(other)
                pending += later[other]
        return seen

    return sorted(module for module in later if module in reached(module))


def test_everything_of_ours_is_named_as_it_is_installed() -> None:
    bare = [
        where(module, item)
        for module in [*everything(), "pyproject"]
        if module not in OF_A_USER
        for item in named(module)
        if is_bare(item.name) or item.name.startswith(".")
    ]
    assert bare == []


def test_every_name_of_ours_leads_somewhere() -> None:
    lost = [
        where(module, item)
        for module in [*everything(), "pyproject"]
        if module not in OF_A_USER
        for item in named(module)
        if item.by == "text" and leads_nowhere(item.name)
    ]
    assert lost == []


def leads_nowhere(name: str) -> bool:
    """Whether a name goes on below a package that has no such module."""
    ours, module = name.removeprefix(f"{NAME}.").removesuffix(".__main__"), leads_to(name)
    return module != "" and ours != module and modules()[module].name == "__init__.py"


# --- the words


def test_only_its_family_names_what_is_particular_to_waypoint() -> None:
    named = [
        f"{module}: {word}"
        for module in modules()
        if package_of(module) in ("harness", "reports") and not module.startswith("harness.families.")
        for word in particular_words(nodes_of(modules()[module]))
    ]
    assert named == []


def particular_words(nodes: list[ast.AST]) -> Iterator[str]:
    """The sites, inputs, phases and configs of Waypoint that code names; what is said in prose does not count."""
    prose = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            text = node.value
            if text in PARTICULAR or any(part in text for part in ("kv_cache", "transformer.blocks", "decoder.")):
                yield text
        elif isinstance(node, ast.Attribute) and node.attr in CONFIG_KEYS:
            yield node.attr


# What a word of Waypoint means to every family too: kinds of sites, places of a pipeline, ways in which pictures
# differ; what the first schema called a unit; and the schedule of a manifest.
COMMON = {*Kind, "decoder", "input", "sampler", "transformer", "noise", "frame", "sigmas"}
PARTICULAR = {
    *(row.name for row in WAYPOINT.sites.rows),
    *(phase for row in WAYPOINT.sites.rows for phase in row.phases),
    *WAYPOINT.fields,
} - COMMON
CONFIG_KEYS = {
    field.name for config in (TransformerConfig, AutoencoderConfig) for field in dataclasses.fields(config)
} - {"channels", "height", "width", "patch"}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("site = 'latent'", []),
        ("at('denoise')", ["denoise"]),
        ("f'kv_cache.layers.{n}'", ["kv_cache.layers."]),
        ("checkpoint.geometry.transformer.n_layers", ["n_layers"]),
        ("given = scenario['button']", ["button"]),
        ("def run():\n    'The denoise steps.'", []),
    ],
)
def test_a_word_of_waypoint_is_found_in_code(source: str, words: list[str]) -> None:
    assert list(particular_words(walked(ast.parse(source)))) == words


# --- the shape


def test_harness_has_ten_rooms_on_a_small_ground() -> None:
    folders = sorted(path.name for path in (ROOT / "harness").iterdir() if path.is_dir() and path.name[0] not in "._")
    files = sorted(path.name for path in (ROOT / "harness").glob("*.py"))
    assert folders == sorted(ROOMS)
    assert files == sorted(f"{name}.py" for name in ("__init__", *GROUND))
    assert len(folders) == 10
    assert len(files) <= 6


def test_no_file_is_named_after_a_position() -> None:
    stems = {module: module.rpartition(".")[2].removeprefix("test_") for module in everything()}
    assert {module for module, stem in stems.items() if stem in SAYS_NOTHING} == set()


def test_no_class_name_of_harness_and_reports_means_two_things() -> None:
    homes: dict[str, list[str]] = {}
    for module, path in modules().items():
        if package_of(module) in ("harness", "reports"):
            for node in parsed(path).body:
                if isinstance(node, ast.ClassDef):
                    homes.setdefault(node.name, []).append(module)
    twice = {name: modules for name, modules in homes.items() if len(modules) > 1}
    assert twice == {}


def test_a_function_fits_in_the_head() -> None:
    long = [
        f"{module}:{node.lineno} {node.name}"
        for module, path in everything().items()
        for node in nodes_of(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines_besides_prose(node) >= 60
    ]
    assert long == []


def lines_besides_prose(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How long a function is below its first line: its docstring is a manual, and counts for nothing."""
    first = node.body[0]
    prose = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    told = (first.end_lineno or 0) - first.lineno + 1 if prose else 0
    return (node.end_lineno or 0) - node.lineno - told


def test_nothing_sets_a_flag_of_the_process_when_it_is_imported() -> None:
    setting = [
        f"{module}: {ast.unparse(node)}"
        for module, path in modules().items()
        for node in at_import(parsed(path))
        if sets_process_wide(node)
    ]
    assert setting == []


def sets_process_wide(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return called(node) in PROCESS_WIDE
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any("torch.backends" in ast.unparse(target) or "environ" in ast.unparse(target) for target in targets)


def test_the_rules_are_held_against_every_package() -> None:
    assert set(map(package_of, modules())) == set(PACKAGES)


# --- the finder's own tests


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import waypoint_parity.reference.eager", ["reference.eager"]),
        ("from waypoint_parity.candidate.model import WorldModel", ["candidate.model"]),
        ("from waypoint_parity.harness.run import keys", ["harness.run.keys"]),
        ("from waypoint_parity import reports", ["reports"]),
        ("def late():\n    from waypoint_parity.reports import summary", ["reports.summary"]),
        ("import_module('waypoint_parity.reference.eager')", ["reference.eager"]),
        ("resources.files('waypoint_parity.fixtures')", ["fixtures"]),
        ("PackageLoader('waypoint_parity.reports')", ["reports"]),
        ("suite = 'waypoint_parity.fixtures.faults:SUITE'", ["fixtures.faults"]),
        ("f'waypoint_parity.reference.{name}.adapter'", ["reference"]),
        ("run([python, '-m', 'waypoint_parity', 'info'])", ["__main__"]),
        ("run(python, '-m', 'waypoint_parity.fixtures.world')", ["fixtures.world.__main__"]),
        ("program = 'import sys; from waypoint_parity.harness.run.keys import Key'", ["harness.run.keys"]),
        ("import torch", []),
        ("group = 'waypoint_parity.implementations'", []),
    ],
)
def test_a_module_of_ours_is_found_wherever_it_is_named(source: str, names: list[str]) -> None:
    assert {leads_to(item.name) for item in found(walked(ast.parse(source)))} - {""} >= set(names)
    assert all(leads_to(item.name) in ["", "fixtures.world", *names] for item in found(walked(ast.parse(source))))


@pytest.mark.parametrize(
    ("source", "bare"),
    [
        ("import harness", True),
        ("from reference.eager import adapter", True),
        ("import_module('reference')", True),
        ("resources.files('fixtures')", True),
        ("suite = 'fixtures.faults:SUITE'", True),
        ("run([python, '-m', 'harness.cli'])", True),
        ("program = 'import sys; import reports.summary'", True),
        ("from . import keys", True),
        ("side = 'reference'", False),
        ("name = 'reference.json'", False),
        ("'Prose; import harness.'", False),
        ("from tests.harness import ports", False),
        ("import harnesses", False),
    ],
)
def test_a_name_without_our_own_in_front_is_found(source: str, bare: bool) -> None:
    assert any(is_bare(item.name) or item.name[0] == "." for item in found(walked(ast.parse(source)))) is bare


@pytest.mark.parametrize(
    ("module", "other", "broken"),
    [
        ("harness.judge.diff", "harness.compare.columns", []),
        ("harness.compare.columns", "harness.judge.diff", [goes_upstream]),
        ("harness.files", "harness.errors", []),
        ("harness.files", "harness.run.keys", [goes_upstream]),
        ("harness.sweep.cells", "harness.families.waypoint.factors", [names_a_family]),
        ("harness.families.waypoint.sites", "harness.judge.diff", []),
        ("harness.families.waypoint.sites", "harness.explain.blame.findings", [goes_upstream]),
        ("harness.judge.diff", "__main__", []),
        ("harness.cli.main", "reports.report", []),
        ("harness.api.runs", "reports.report", []),
        ("harness.api.runs", "harness.cli.main", [goes_upstream]),
        ("harness.sweep.parity", "reports.report", [crosses_packages]),
        ("reports.rings", "harness.families.waypoint.rings.map", [names_a_family]),
        ("candidate.adapter", "harness.run.adapter", []),
        ("candidate.fastvideo.adapter", "harness.run.adapter", []),
        ("candidate.model", "harness.run.adapter", [crosses_packages]),
        ("candidate.adapter", "reference.eager.model", [crosses_packages]),
        ("fixtures.tiny", "reference.eager.model", []),
    ],
)
def test_an_edge_breaks_the_rules_that_it_breaks(module: str, other: str, broken: list[object]) -> None:
    assert [rule for rule in RULES if rule(module, other)] == broken


def test_a_circle_is_found() -> None:
    assert in_circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]


def test_what_only_a_type_checker_imports_is_in_no_circle() -> None:
    tree = ast.parse("if TYPE_CHECKING:\n    import waypoint_parity.harness.files\nelse:\n    import torch")
    assert [node.names[0].name for node in at_import(tree) if isinstance(node, ast.Import)] == ["torch"]


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
