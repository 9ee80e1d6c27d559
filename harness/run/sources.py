"""Other people's sources: whether they are of the tested revision, and an import of them that leaves no trace."""

import hashlib
import importlib.util
import sys
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.process_settings import preserved_settings

# The option of an implementation that runs another revision all the same.
UNTESTED = "untested-revision"


def sources_digest(folder: Path, files: Collection[str] = ()) -> str:
    """SHA-256 over names and contents of `files` below `folder`, line endings aside; of all Python files by default.

    A file that is absent counts as empty.
    """
    digest = hashlib.sha256()
    for path in [folder / name for name in files] or sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update((path.read_bytes() if path.is_file() else b"").replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Tested:
    """The revision of a repository that was tested: `digest` is that of its `files`, the ones whose code computes.

    `called`: the repository; `implementation`: what drives it here; `install`: how a user comes by it.
    """

    called: str
    implementation: str
    revision: str
    files: tuple[str, ...]
    digest: str
    install: str

    def package(self, name: str) -> Path:
        """The folder of a package, which is not imported. Raises UserError where there is none."""
        spec = importlib.util.find_spec(name)
        # A folder of that name in the current directory, without a package in it, has no origin.
        if spec is None or spec.origin is None:
            raise self.unusable(f"no package {name}")
        return Path(spec.origin).parent

    def is_in(self, folder: Path) -> bool:
        """Whether a folder holds it."""
        return sources_digest(folder, self.files) == self.digest

    def version(self, folder: Path, *, untested: bool) -> str:
        """What a folder holds, in words. Raises UserError for another revision, unless `untested` is asked for."""
        digest = sources_digest(folder, self.files)
        if digest == self.digest:
            return f"{self.called} {self.revision[:7]}"
        if untested:
            return f"{self.called}, not the tested revision (sources sha256 {digest})"
        raise UserError(
            f"{self.called} is there, but not the revision that was tested",
            found=f"sources with sha256 {digest}",
            expected=f"revision {self.revision} (sources with sha256 {self.digest})",
            do=f"{self.install}; or name the implementation {self.implementation}+{UNTESTED} to run it all the same",
        )

    def unusable(self, found: str) -> UserError:
        """What is said where it is not there, or lacks something."""
        return UserError(
            f"the code of {self.called} cannot be used",
            found=found,
            expected=f"{self.called} at the tested revision {self.revision}",
            do=self.install,
        )


@contextmanager
def in_their_place(*packages: str) -> Iterator[None]:
    """No module of these packages is there, but those that are imported or stand in while the context is open.

    Afterwards `sys.modules` and the settings of the process are as they were.
    """

    def taken() -> dict[str, ModuleType]:
        names = [name for name in sys.modules if name.partition(".")[0] in packages]
        return {name: sys.modules.pop(name) for name in names}

    aside = taken()
    with preserved_settings(), warnings.catch_warnings(action="ignore"):
        try:
            yield
        finally:
            taken()
            sys.modules.update(aside)


def stand_in(name: str, path: Path | None = None, **contents: object) -> ModuleType:
    """Put a module of these `contents` in the place of another: a package, whose modules lie in `path`."""
    module = sys.modules[name] = ModuleType(name)
    vars(module).update(contents)
    module.__path__ = [] if path is None else [str(path)]
    # Whether a package is installed is asked by it.
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    return module
