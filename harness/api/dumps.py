"""Dumps: opened, and compared as `waypoint-parity diff` compares them. Nothing here needs torch."""

from pathlib import Path

from waypoint_parity.harness.judge.comparison import Comparison
from waypoint_parity.harness.judge.diff import Dump, diff_dumps, dtype_of, open_dump
from waypoint_parity.harness.judge.judgement import AS_REFERENCE
from waypoint_parity.harness.judge.noise_floor.document import FALSE_ALARM_RATE
from waypoint_parity.harness.judge.standards import standards
from waypoint_parity.harness.run.family import family_named, optional_fields


def load_dump(folder: str | Path) -> Dump:
    """The dump in a folder, finished or not: `folder`, and its `manifest`. Its records are read when it is compared.

    Raises:
        UserError: for a folder that holds no dump, and for another schema.

    Example:
        ```python
        dump = wp.load_dump("reports/out/reference")
        print(dump.manifest.implementation, dump.manifest.observed)
        ```
    """
    return open_dump(Path(folder))


def diff(
    reference: Dump | str | Path,
    candidate: Dump | str | Path,
    *,
    tolerance: float | None = None,
    floor: str | Path | None = None,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    accept_inputs: tuple[str, ...] = (),
    allow_missing: tuple[str, ...] = (),
    precision: str = AS_REFERENCE,
) -> Comparison:
    """Compare two dumps from their files alone, and name the first site in execution order that diverges.

    They are judged as `waypoint-parity diff` judges them: by the exact values that `--exact` recorded, else by the
    noise floor that lies beside the checkpoint, else by the fixed tolerances of their family. A script of your own
    needs `if __name__ == "__main__":`, since large dumps are read by several processes.

    Args:
        reference: The dump that is right, or its folder.
        candidate: The dump that is judged, or its folder.
        tolerance: The largest relative L2 error of an activation, in place of a noise floor.
        floor: The file of a noise floor.
        false_alarm_rate: The share of right runs that a noise floor may call DIVERGED, over all sites of a run.
        accept_inputs: Names of inputs that may differ, such as `("sigma",)`.
        allow_missing: Sites that one side may lack, as globs.
        precision: What the candidate may cost on purpose: as-reference, tf32, fp16 or bf16.

    Returns:
        The comparison. It is true where parity holds.

    Raises:
        UserError: for a dump that is broken, and for a floor of other runs.

    Example:
        ```python
        comparison = wp.diff("reports/out/reference", "my_dump")
        if not comparison:
            print(comparison.first)
        ```
    """
    left, right = (dump if isinstance(dump, Dump) else load_dump(dump) for dump in (reference, candidate))
    run = left.manifest
    family = family_named(run.family)
    judged = standards(
        family,
        dtype_of(left),
        folder=Path(run.checkpoint_origin),
        digest=run.checkpoint_digest,
        floor=None if floor is None else Path(floor),
        false_alarm_rate=false_alarm_rate,
        tolerance=tolerance,
        accepted_inputs=tuple(accept_inputs),
        allowed_missing=tuple(allow_missing),
        precision=precision,
    )
    return diff_dumps(left, right, judged.judgement(run.sigmas, optional_fields(family, run.inputs or {})))
