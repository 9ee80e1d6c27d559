"""The pytest plugin: the fixture `parity`. It imports nothing that takes time before a test asks for it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from waypoint_parity.harness.judge.comparison import Comparison

_ACCEPTED = "parity-accepted"
_MARKER = "parity(rtol=None, atol=None): a test of parity; these judge its parity.check"
ACCEPT, CHECK = "accept", "check"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The two ways to treat accepted values. The one that is given last holds."""
    group = parser.getgroup("parity", "values that tests accepted (parity.check)")
    group.addoption(
        "--parity-accept",
        dest="parity_mode",
        action="store_const",
        const=ACCEPT,
        default=CHECK,
        help="Write what parity.check is given into __parity__ beside the test, in place of comparing it.",
    )
    group.addoption(
        "--parity-check",
        dest="parity_mode",
        action="store_const",
        const=CHECK,
        help="Compare what parity.check is given with what was accepted (the default). What was not accepted fails.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Announce the marker."""
    config.addinivalue_line("markers", _MARKER)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that asks for the fixture, so that `-m parity` selects them."""
    for item in items:
        if "parity" in getattr(item, "fixturenames", ()) and item.get_closest_marker("parity") is None:
            item.add_marker("parity")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """List the files that were accepted, whichever process ran the test."""
    reports = [report for each in terminalreporter.stats.values() for report in each]
    told = [pair for report in reports for pair in getattr(report, "user_properties", ())]
    if accepted := sorted({str(value) for name, value in told if name == _ACCEPTED}):
        terminalreporter.section("parity: accepted values")
        for path in accepted:
            terminalreporter.line(path)


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> "Parity":
    """Asserts parity: of modules, of tensors, of implementations, and of what was accepted before."""
    return Parity(request)


class Parity:
    """What the fixture `parity` offers. Where parity does not hold, the test fails with the first divergence."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request
        self._checked: set[str] = set()

    def modules(self, reference: Any, candidate: Any, inputs: Any, **options: Any) -> "Comparison":
        """Assert that two modules of torch are the same, submodule by submodule; see `waypoint_parity.module_parity`.

        Example:
            ```python
            def test_block(parity):
                parity.modules(theirs, ours, torch.randn(1, 16, 64))
            ```
        """
        __tracebackhide__ = True
        from waypoint_parity.harness.api.modules import module_parity

        return self._asserted(_told(module_parity, reference, candidate, inputs, **options))

    def tensors(self, actual: Any, expected: Any, **options: Any) -> "Comparison":
        """Assert that tensors, mappings of them or dumps are the same; see `waypoint_parity.assert_parity`."""
        __tracebackhide__ = True
        from waypoint_parity.harness.api.values import compared_values

        return self._asserted(_told(compared_values, actual, expected, **options))

    def compare(self, reference: Any, candidate: Any, scenario: Any, **options: Any) -> "Comparison":
        """Assert that two implementations are the same on a scenario; see `waypoint_parity.compare`.

        Both dumps and report.html lie in the test's temporary folder, which the failure names.
        """
        __tracebackhide__ = True
        from waypoint_parity.harness.api.runs import compare

        out = Path(options.pop("out", None) or self._folder() / "run")
        comparison = _told(compare, reference, candidate, scenario, out=out, **options)
        return self._asserted(comparison, f"  report:           {out / 'report.html'}")

    def check(self, value: Any, name: str = "", *, rtol: float | None = None, atol: float | None = None) -> None:
        """Assert that a tensor, or a mapping of tensors, is what was accepted before.

        Accepted values lie in `__parity__` beside the test's file, a small file for each test and `name`: of a tensor
        of more than 4096 elements so many, with statistics and a random projection of them all.
        `pytest --parity-accept` writes them. What was not accepted fails.

        Args:
            value: A tensor or array, or a mapping or list of them, in the order of execution.
            name: Which one of several in a test.
            rtol: Relative tolerance of torch.testing.assert_close; if neither is given, its default for the dtype. The
                marker `parity(rtol=..., atol=...)` gives both for a whole test.
            atol: Absolute tolerance; to be given with `rtol`.

        Example:
            ```python
            def test_frame(parity):
                parity.check({"latent": latent, "frame": frame})
            ```
        """
        __tracebackhide__ = True
        from waypoint_parity.harness.api.baseline import accept, baseline_path, first_unlike

        node = self._request.node
        if name in self._checked:
            pytest.fail(
                f"parity.check was given {f'the name {name!r}' if name else 'no name'} twice in this test: give each "
                "value one of its own, parity.check(value, name='after')",
                pytrace=False,
            )
        self._checked.add(name)
        marker = node.get_closest_marker("parity")
        of_test = {} if marker is None else marker.kwargs
        rtol, atol = (of_test.get("rtol"), of_test.get("atol")) if rtol is None and atol is None else (rtol, atol)
        if (rtol is None) != (atol is None):
            pytest.fail("parity.check: give rtol and atol, or neither", pytrace=False)
        path = baseline_path(node.path, node.nodeid.partition("::")[2], name)
        if self._request.config.getoption("parity_mode") == ACCEPT:
            accept(value, node.nodeid, path)
            node.user_properties.append((_ACCEPTED, str(path)))
            return
        if not path.is_file():
            raise AssertionError(f"{path}: was never accepted; pytest --parity-accept writes it")
        if problem := first_unlike(value, path, rtol=rtol, atol=atol):
            raise AssertionError(problem)

    def _asserted(self, comparison: "Comparison", also: str = "") -> "Comparison":
        """The comparison. Raises ParityError where it is no pass, and keeps its file."""
        __tracebackhide__ = True
        from waypoint_parity.harness.api.values import ParityError

        if comparison:
            return comparison
        path = self._folder() / "comparison.json"
        path.write_text(comparison.to_json(), "utf-8")
        raise ParityError(comparison, "\n".join(filter(None, (f"  comparison:       {path}", also))))

    def _folder(self) -> Path:
        folder: Path = self._request.getfixturevalue("tmp_path")
        return folder


def _told(compared: "Callable[..., Comparison]", *given: Any, **options: Any) -> "Comparison":
    """What a function returns; where the call is wrong, the test fails with the message alone."""
    __tracebackhide__ = True
    from waypoint_parity.harness.errors import UserError

    try:
        return compared(*given, **options)
    except UserError as error:
        message = str(error)
    pytest.fail(message, pytrace=False)
