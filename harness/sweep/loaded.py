"""What a process has loaded and read, besides installed distributions: modules by any route, libraries, data.

Source code says what a process may load (harness.sweep.source); this says what it did, after it did. Left out are the
standard library, the system's own files, installed distributions, which count by their version, and the instrument.
What a library reads without Python, and does not keep mapped, is not seen. Libraries are seen on Linux alone.
"""

import hashlib
import os
import stat
import sys
import sysconfig
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from waypoint_parity.harness.run.neighbours import swapped_out
from waypoint_parity.harness.run.reads import taken
from waypoint_parity.harness.sweep.source import in_packages, is_installed, is_of_a_package

ABSENT = "absent"
# Behind the digest of a file that may have been loaded before it was written: it is that of no file.
_UNSURE = " (written meanwhile)"
_SYSTEM = ("/bin/", "/dev/", "/etc/", "/lib/", "/lib32/", "/lib64/", "/proc/", "/run/", "/sbin/", "/sys/", "/usr/")
# What is asked of distributions, which count by what they say.
_METADATA = tuple(f"-info/{name}" for name in ("METADATA", "PKG-INFO", "RECORD", "entry_points.txt", "top_level.txt"))
# The field of /proc/self/maps that holds the file.
_MAPPED = 5
# When no engine was loaded yet, in this process.
_begun = [time.time()]
_PACKAGE = Path(__file__).resolve().parents[2]
_INSTRUMENT = (str(_PACKAGE / "harness"), str(_PACKAGE / "reports"))
_STANDARD = tuple({os.path.realpath(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib")})
# What torch compiles out of code that is loaded.
_COMPILED = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


@dataclass(frozen=True)
class _Seen:
    """A file as it was when it was first seen: `by` the module that was made of it, where one was."""

    digest: str
    by: int | None


class Loaded:
    """What this process has loaded, as it was when it did. There is one: `loaded()`."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._looked = _begun[0]
        # By their ids, which are another's once a module is gone.
        self._modules: dict[int, ModuleType] = {}
        # Inputs, which the address of a cell has.
        self._given = set(_mapped(executable=False))

    def look(self, apart_from: Collection[Path] = ()) -> None:
        """Take note of what has come since the last time: it is what it was then, unless it was written since.

        Files and folders that a cell has in its address, or makes, are left out.
        """
        now = time.time()
        apart = [os.path.realpath(path) for path in apart_from]
        read = taken()
        mapped = {*_mapped(executable=True), *(set(_mapped(executable=False)) - self._given)}
        for path, by in (*self._new_modules(), *((path, None) for path in mapped | read)):
            known = self._seen.get(path)
            # A module stays what it was made of. What is read is read again.
            if known is not None and (by == known.by if by is not None else path not in read):
                continue
            if _is_others(path) or _is_within(os.path.realpath(path), apart):
                continue
            digest = self._digest(path)
            if known is not None and by is None and known.digest != digest:
                digest += _UNSURE
            self._seen[path] = _Seen(digest, by if by is not None or known is None else known.by)
        self._looked = now

    def begin_anew(self, moment: float) -> None:
        """What comes from now on is what was written by now."""
        self._looked = moment

    def _new_modules(self) -> Iterator[tuple[str, int]]:
        """The files of modules that were not there the last time, and the ids of these."""
        for module in (*list(sys.modules.values()), *swapped_out()):
            if id(module) in self._modules:
                continue
            self._modules[id(module)] = module
            try:
                file = getattr(module, "__file__", None)
            except Exception:  # a module may be any object, and compute its attributes
                continue
            if isinstance(file, str) and os.path.isfile(file):
                yield os.path.abspath(file), id(module)

    def files(self) -> dict[str, str]:
        """The digest of every file that was loaded or read."""
        return {path: seen.digest for path, seen in sorted(self._seen.items())}

    def _digest(self, path: str) -> str:
        digest = digest_now(path)
        try:
            # A file system counts in ticks of some milliseconds.
            later = os.stat(path).st_ctime > self._looked - 0.01
        except OSError:
            return digest
        return digest + _UNSURE if later else digest


_loaded: list[Loaded] = []


def _begin_anew() -> None:
    """What is forked begins with what its parent had loaded, and loads its engines after that."""
    _begun[0] = time.time()
    for each in _loaded:
        each.begin_anew(_begun[0])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def loaded() -> Loaded:
    """What this process has loaded."""
    if not _loaded:
        _loaded.append(Loaded())
    return _loaded[0]


_digests: dict[str, tuple[tuple[int, ...], str]] = {}


def digest_now(path: str) -> str:
    """SHA-256 of a file as it is now; ABSENT where there is none that could be read."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            return ABSENT
        state = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
        known = _digests.get(path)
        if known is None or known[0] != state:
            with open(path, "rb") as file:
                known = _digests[path] = state, hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return ABSENT
    return known[1]


def is_unchanged(files: Mapping[str, str]) -> bool:
    """Whether all of these files still have the digests that they had."""
    return all(digest_now(path) == digest for path, digest in files.items())


def _mapped(*, executable: bool) -> Iterator[str]:
    """The files that are mapped into this process's memory: libraries, or what is mapped as data."""
    try:
        # Names of files, as this system decodes them.
        with open("/proc/self/maps", "rb") as maps:
            lines = [os.fsdecode(line).rstrip("\n").split(maxsplit=5) for line in maps if b"/" in line]
    except OSError:
        return
    for line in lines:
        if len(line) > _MAPPED and ("x" in line[1]) is executable:
            yield line[_MAPPED]


def _is_within(path: str, places: Collection[str]) -> bool:
    return any(path == place or path.startswith(place + os.sep) for place in places)


@cache
def _is_others(path: str) -> bool:
    """Whether it is the system's, the standard library's, a distribution's or the instrument's: not an engine's."""
    if not path.startswith("/") or path.endswith(_METADATA):
        return True
    if path.startswith(_SYSTEM) and not path.startswith(("/usr/local/", "/dev/shm/")):
        return True
    caches = [os.environ[name] + os.sep for name in _COMPILED if os.environ.get(name)]
    if path.startswith(tuple(caches)) or f"{os.sep}torchinductor_" in path:
        return True
    if in_packages(Path(path)):
        return is_of_a_package(path)
    # Links are followed only here: most of what is loaded is no engine's.
    real = os.path.realpath(path)
    if real == os.path.realpath(sys.executable) or _is_within(real, (*_INSTRUMENT, *_STANDARD)):
        return not in_packages(Path(real)) or is_of_a_package(real)
    return is_installed(Path(real))
