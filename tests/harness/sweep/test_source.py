import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.sweeps import tiny_cells
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.family import Waypoint
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.sweep import source
from waypoint_parity.harness.sweep.identity import Rules, identity
from waypoint_parity.harness.sweep.source import implementation_digest, module_digest

ADAPTER = """
from waypoint_parity.harness.run.adapter import Adapter
class Port:
    def describe(self): ...
    def sites(self): ...
    def session(self, scenario):
        {body}
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An importable package `engine` of two modules, the second of which imports numpy."""
    folder = tmp_path / "engine"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "port.py").write_text(ADAPTER.format(body="from engine import kernel"))
    (folder / "kernel.py").write_text("import numpy\nSCALE = 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.startswith("engine"):
            del sys.modules[name]
    forget()


def forget() -> None:
    """What a new process does not know."""
    module_digest.cache_clear()
    source._is_installed.cache_clear()


def test_code_that_is_imported_only_inside_a_function_counts(engine: Path) -> None:
    before = implementation_digest("engine.port:Port")
    assert implementation_digest("engine.port:Port+an-option") == before
    (engine / "kernel.py").write_text("import numpy\nSCALE = 1.1\n")
    forget()
    assert implementation_digest("engine.port:Port") != before


def test_code_that_is_not_imported_does_not_count(engine: Path) -> None:
    before = implementation_digest("engine.port:Port")
    (engine / "unused.py").write_text("SCALE = 2.0")
    forget()
    assert implementation_digest("engine.port:Port") == before


def test_the_package_above_a_module_counts(engine: Path) -> None:
    before = implementation_digest("engine.port:Port")
    (engine / "__init__.py").write_text("SCALE = 2.0")
    forget()
    assert implementation_digest("engine.port:Port") != before


def test_an_installed_package_counts_by_its_version(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = implementation_digest("engine.port:Port")
    monkeypatch.setattr(source, "version", lambda name: "0.0.1")
    forget()
    assert implementation_digest("engine.port:Port") != before


def test_a_package_that_cannot_be_imported_here_stops_nothing(engine: Path) -> None:
    (engine / "elsewhere").mkdir()
    (engine / "elsewhere" / "__init__.py").write_text("assert False, 'another system'")
    (engine / "port.py").write_text(ADAPTER.format(body="from engine.elsewhere import console"))
    assert implementation_digest("engine.port:Port")


def test_an_adapter_in_a_file_counts(tmp_path: Path) -> None:
    digests = set()
    for body in ("pass", "pass  # and nothing else"):
        forget()
        path = tmp_path / "port.py"
        path.write_text(ADAPTER.format(body=body))
        digests.add(implementation_digest(f"{path}:Port"))
    assert len(digests) == 2


def test_implementations_here_have_code_of_their_own() -> None:
    names = ("eager", "candidate", "fixtures/examples/my_port.py:MyPort")
    assert len({implementation_digest(name) for name in names}) == len(names)


def test_what_is_no_implementation_is_refused() -> None:
    with pytest.raises(UserError, match="no such implementation"):
        implementation_digest("no-such-port")


def test_a_cell_depends_on_the_code_of_its_family(tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics) -> None:
    (cell,) = tiny_cells(tiny, short, fp32_on_cpu)
    assert identity(Rules("eager"), tiny, cell)["family source"] == module_digest(Waypoint.__module__)


def test_packages_in_a_folder_of_another_name_count_by_what_their_distribution_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a .pth file may add one: that they would be read whole took minutes, and failed where one cannot be."""
    package, listed = tmp_path / "deps" / "vendored", tmp_path / "deps" / "vendored-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from vendored import broken\n")
    (package / "broken.py").write_text("assert False, 'not for this system'\nthis is no Python\n")
    listed.mkdir()
    (listed / "METADATA").write_text("Metadata-Version: 2.1\nName: vendored\nVersion: 1.0\n")
    (listed / "RECORD").write_text("vendored/__init__.py,,\nvendored/broken.py,,\n")
    (tmp_path / "port.py").write_text(ADAPTER.format(body="import vendored"))
    monkeypatch.syspath_prepend(tmp_path / "deps")
    source._distributions.cache_clear()

    def digest() -> str:
        forget()
        source._contents.cache_clear()
        return implementation_digest(f"{tmp_path / 'port.py'}:Port")

    before = digest()
    assert source._is_installed("vendored")
    (package / "broken.py").write_text("edited in place: of a distribution what it lists counts\n")
    assert digest() == before
    # Installed anew under the same version.
    (listed / "RECORD").write_text("vendored/__init__.py,sha256=a,1\nvendored/broken.py,sha256=b,1\n")
    assert digest() != before
    source._distributions.cache_clear()
    source._files.cache_clear()


def test_source_that_is_none_is_read_as_far_as_it_goes(engine: Path) -> None:
    (engine / "kernel.py").write_text("from ....beyond import everything\n")
    before = implementation_digest("engine.port:Port")
    (engine / "kernel.py").write_text("this is no Python\n")
    forget()
    assert implementation_digest("engine.port:Port") != before
