"""Tensors and dumps, asserted to be the same: the message is the first divergence."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.judge.comparison import Comparison
from waypoint_parity.harness.judge.diff import Dump
from waypoint_parity.harness.run.keys import Key

PHASE = "values"
# From the widest to the narrowest.
_PRECISIONS = {"float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
# Of what has no name of its own.
_ALONE = "value"


class ParityError(AssertionError):
    """Parity does not hold. The message is the verdict and the first divergence; `comparison` holds all the rest."""

    def __init__(self, comparison: Comparison, also: str = "") -> None:
        super().__init__("\n".join(filter(None, (str(comparison), also))))
        self.comparison = comparison


def assert_parity(
    actual: Any,
    expected: Any,
    *,
    tolerance: float | None = None,
    allow_missing: Sequence[str] = (),
) -> Comparison:
    """Assert that two results are the same within rounding; where they are not, the message names the first divergence.

    Values alone tell only how far apart they are. Two modules tell more: see `module_parity`.

    Args:
        actual: What is judged: a tensor or array (torch, NumPy, or anything with `__dlpack__` or `__array__`); a
            mapping of names to them; a list of them, or of (name, value) pairs; or a dump, or the folder of one.
            Mappings and lists are in the order of execution, and may be nested.
        expected: What is right, of the same kind. A name like `u0/denoise1/SITE` is a whole key. What is called
            `input.*` is an input: where it differs no score is given.
        tolerance: The largest relative L2 error, ||actual - expected|| / ||expected||. If not given, 1e-5 in fp32 and
            3e-2 in bf16; whole numbers are equal or not. Dumps are judged as `diff` does.
        allow_missing: Names that one side may lack, as globs.

    Returns:
        The comparison, which is true.

    Raises:
        ParityError: an AssertionError, where parity does not hold, and where nothing was compared.
        UserError: for what is no tensor.

    Example:
        ```python
        wp.assert_parity({"norm": ours, "mlp": mlp}, {"norm": theirs, "mlp": their_mlp})
        ```
    """
    __tracebackhide__ = True
    comparison = compared_values(actual, expected, tolerance=tolerance, allow_missing=allow_missing)
    if not comparison:
        raise ParityError(comparison)
    return comparison


def compared_values(
    actual: Any, expected: Any, *, tolerance: float | None = None, allow_missing: Sequence[str] = ()
) -> Comparison:
    """The comparison of two results: see `assert_parity`."""
    dumps = [isinstance(each, Dump | str | Path) for each in (actual, expected)]
    if any(dumps) and not all(dumps):
        raise _no_tensor("actual" if dumps[0] else "expected", "a dump, and tensors on the other side")
    if all(dumps):
        from waypoint_parity.harness.api.dumps import diff

        return diff(expected, actual, tolerance=tolerance, allow_missing=tuple(allow_missing))
    return _compared(named_tensors(actual), named_tensors(expected), tolerance, tuple(allow_missing))


def _compared(
    actual: Mapping[Key, Any], expected: Mapping[Key, Any], tolerance: float | None, allow_missing: tuple[str, ...]
) -> Comparison:
    from waypoint_parity.harness.compare.join import CANDIDATE, REFERENCE, SideName
    from waypoint_parity.harness.compare.tensor_error import tensor_error
    from waypoint_parity.harness.judge.comparison import LIVE
    from waypoint_parity.harness.judge.judgement import Judgement, fixed_tolerance
    from waypoint_parity.harness.judge.table import VerdictTable
    from waypoint_parity.harness.run.family import family_named

    family = family_named("")
    reason = "values alone have no noise floor" if tolerance is None else "tolerance"
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in expected.values())
    bounds = fixed_tolerance(family, precision_of(dtypes), activations=tolerance, reason=reason)
    table = VerdictTable(Judgement(bounds, (), allow_missing), family)
    # In the order of what is expected; what only the other side has comes last.
    for order, key in enumerate({**expected, **actual}):
        if key in actual and key in expected:
            table.pair(order, key, tensor_error(actual[key], expected[key]))
        else:
            lacking: SideName = CANDIDATE if key in expected else REFERENCE
            table.missing(order, key, lacking=lacking, seen_elsewhere=False, note=_missing(key in expected))
    number = len(expected.keys() | actual.keys())
    return table.close("expected", "actual", evidence=LIVE, expected=number, pictures=[])


def _missing(is_expected: bool) -> str:
    return "actual has no value of this name" if is_expected else "expected has no value of this name"


def precision_of(dtypes: Mapping[str, int]) -> str:
    """The float type of most tensors, counted by dtype; of two that are equally many the narrower one."""
    known = [name for name in _PRECISIONS if dtypes.get(name)]
    # The last of the largest.
    return _PRECISIONS[max(reversed(known), key=lambda name: dtypes[name])] if known else "fp32"


def named_tensors(value: Any) -> dict[Key, Any]:
    """Every tensor of a value by its key, on the device where it is, in order.

    Raises UserError for what is no tensor, and where two have the same name.
    """
    found: dict[Key, Any] = {}
    for name, leaf in _named(value, ""):
        key = Key.parse(name) or Key(0, PHASE, 0, name.replace("@", "_").replace("#", "_").replace("/", "."))
        if key in found:
            raise UserError("two values have the same name", found=name, expected="names that differ", do="rename one")
        found[key] = tensor_of(leaf, name)
    return found


def _named(value: Any, name: str) -> list[tuple[str, Any]]:
    """(name, leaf) of everything in mappings, lists and pairs."""
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple) and value and all(_is_pair(item) for item in value):
        items = list(value)
    elif isinstance(value, list | tuple) and not hasattr(value, "dtype"):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return [(name or _ALONE, value)]
    return [found for key, item in items for found in _named(item, f"{name}.{key}" if name else key)]


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)


def tensor_of(value: Any, name: str) -> Any:
    """A value as a dense tensor of real numbers. Raises UserError where it is none."""
    import torch

    from waypoint_parity.harness.run.taps import NUMBERS, as_real, dense

    if not isinstance(value, torch.Tensor | NUMBERS):
        value = _foreign(value, name)
    try:
        return as_real(dense(value).detach())
    except ValueError as error:
        raise _no_tensor(name, str(error)) from None


def _foreign(value: Any, name: str) -> Any:
    """An array of another library."""
    import torch

    if hasattr(value, "__dlpack__"):
        try:
            return torch.utils.dlpack.from_dlpack(value)
        except (RuntimeError, TypeError, BufferError, ValueError):  # on a device that torch does not have
            pass
    if hasattr(value, "__array__"):
        return np.asarray(value)
    raise _no_tensor(name, type(value).__name__)


def _no_tensor(name: str, found: str) -> UserError:
    return UserError(
        f"{name}: is no tensor",
        found=found,
        expected="a tensor or an array of numbers, a mapping or a list of these, or a dump",
        do=f"leave it out, or take the tensor out of it; kinds that are taken: {listed(['torch', 'NumPy', 'DLPack'])}",
    )
