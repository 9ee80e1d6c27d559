"""Runs of implementations that have an adapter: compared, recorded, and searched for what causes a divergence."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from waypoint_parity.harness.api.dumps import load_dump
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.compare.exact.recorded import record_session
from waypoint_parity.harness.errors import EngineError, UserError
from waypoint_parity.harness.explain.blame.case import load_case
from waypoint_parity.harness.explain.blame.exchanges import exchange_called
from waypoint_parity.harness.explain.blame.journal import Journal
from waypoint_parity.harness.explain.blame.result import BLAME_NAME, Blame
from waypoint_parity.harness.explain.blame.search import Search
from waypoint_parity.harness.files import replacing
from waypoint_parity.harness.judge.comparison import Comparison
from waypoint_parity.harness.judge.diff import Dump
from waypoint_parity.harness.judge.growth import LANES
from waypoint_parity.harness.judge.judgement import AS_REFERENCE
from waypoint_parity.harness.judge.standards import Standards, standards
from waypoint_parity.harness.progress import silent
from waypoint_parity.harness.record.selection import Selection
from waypoint_parity.harness.run.adapter import DTYPES, Numerics, usable_device
from waypoint_parity.harness.run.scenario import Scenario, read_scenario
from waypoint_parity.harness.sweep.cells import Conditions, plan
from waypoint_parity.harness.sweep.factors import Factors
from waypoint_parity.harness.sweep.identity import Rules
from waypoint_parity.harness.sweep.parity import ParityRun, run_parity
from waypoint_parity.reports.documents import remove_documents, write_documents

# A registered name, `file.py:Class`, `package.module:Class`, or the class itself.
Implementation = str | type[Any]


def compare(
    reference: Implementation,
    candidate: Implementation,
    scenario: Scenario | str | Path,
    *,
    checkpoint: Checkpoint | str | Path,
    dtype: str = "fp32",
    device: str = "cpu",
    tolerance: float | None = None,
    accept_inputs: tuple[str, ...] = (),
    allow_missing: tuple[str, ...] = (),
    precision: str = AS_REFERENCE,
    exact: bool = True,
    out: str | Path | None = None,
) -> Comparison:
    """Run two implementations on one scenario in lockstep, and compare everything that both show.

    It is one cell of `waypoint-parity parity --as-recorded`, judged in the same way.

    Args:
        reference: The implementation that is right: a registered name such as "eager", `file.py:Class`,
            `package.module:Class`, `dump:FOLDER`, `command: ...`, or an adapter class.
        candidate: The implementation that is judged.
        scenario: The recorded inputs, or their file.
        checkpoint: The checkpoint, its folder, or its hub id with a revision.
        dtype: Type of weights and activations: fp32 or bf16.
        device: Device as torch spells it.
        tolerance: The largest relative L2 error of an activation, in place of a noise floor.
        accept_inputs: Names of inputs that may differ.
        allow_missing: Sites that one side may lack, as globs; `("*",)` for a port that shows a few.
        precision: What the candidate may cost on purpose: as-reference, tf32, fp16 or bf16.
        exact: Follow both sides in fp64; takes about four times as long.
        out: Folder for both dumps and the report (report.html). If not given, nothing is kept.

    Returns:
        The comparison. It is true where parity holds.

    Raises:
        UserError: for a checkpoint, scenario or implementation that is none.
        EngineError: where an implementation fails.

    Example:
        ```python
        comparison = wp.compare(
            "eager", "my_port.py:MyPort", "scenario.safetensors", checkpoint="checkpoint", allow_missing=("*",)
        )
        print(comparison.verdict, comparison.first)
        ```
    """
    opened, inputs, numerics = _opened(checkpoint, scenario, dtype, device)
    judged = _standards(opened, dtype, tolerance, accept_inputs, allow_missing, precision)
    factors = Factors((_name(candidate),), {}, (dtype,))
    cells = plan(opened, factors, inputs, lambda _: Conditions(numerics, judged))
    rules = Rules(reference=_name(reference), threads=torch.get_num_threads(), exact=exact)
    with tempfile.TemporaryDirectory() if out is None else nullcontext(str(out)) as folder:
        if out is not None:
            remove_documents(Path(out))
        summary = run_parity(ParityRun(opened, rules, Path(folder)), cells)
        if out is not None:
            write_documents(summary, Path(out))
    for failure in summary.failures:
        what, found = f"{_name(candidate)}: could not be compared", failure.message
        error = UserError if failure.mistake else EngineError
        raise error(what, found=found, expected="two sessions that run to their end", do="mend it at this place")
    return summary.variants[cells[0].name]


def record(
    implementation: Implementation,
    scenario: Scenario | str | Path,
    out: str | Path,
    *,
    checkpoint: Checkpoint | str | Path,
    dtype: str = "fp32",
    device: str = "cpu",
    sites: Sequence[str] = ("*",),
    tensors: Sequence[str] = (),
    exact: bool = False,
) -> Dump:
    """Run one implementation on a scenario and write what its sites show, as `waypoint-parity dump` does.

    Args:
        implementation: As for `compare`.
        scenario: The recorded inputs, or their file.
        out: Folder of the dump. An earlier dump there is replaced.
        checkpoint: The checkpoint, its folder, or its hub id with a revision.
        dtype: Type of weights and activations: fp32 or bf16.
        device: Device as torch spells it.
        sites: Sites to record, as globs. Inputs always are.
        tensors: Sites whose full tensors are kept, as globs; `("*",)` for all.
        exact: Record beside each observation what it would be without rounding; takes some 25 times as long.

    Returns:
        The dump.

    Raises:
        UserError: for a checkpoint, scenario or implementation that is none, and for a folder with other files.
        EngineError: where the implementation fails. What was recorded before is kept, as an incomplete dump.

    Example:
        ```python
        dump = wp.record("eager", "scenario.safetensors", "reports/out/reference", checkpoint="checkpoint")
        ```
    """
    opened, inputs, numerics = _opened(checkpoint, scenario, dtype, device)
    record_session(
        _name(implementation),
        opened,
        inputs,
        numerics,
        Path(out),
        selection=Selection(sites=tuple(sites)),
        keep=tuple(tensors),
        lanes=LANES if exact else None,
    )
    return load_dump(out)


def blame(
    reference: Implementation,
    candidate: Implementation,
    scenario: Scenario | str | Path,
    *,
    checkpoint: Checkpoint | str | Path,
    dtype: str = "fp32",
    device: str = "cpu",
    tolerance: float | None = None,
    accept_inputs: tuple[str, ...] = (),
    allow_missing: tuple[str, ...] = (),
    exchange: Sequence[str] = (),
    gains: bool = True,
    budget: float | None = None,
    announce: Callable[[str], None] = silent,
    out: str | Path | None = None,
) -> Blame:
    """Find what causes a divergence: every part that is wrong by itself, and its share of the last picture's error.

    The search takes some ten sessions of the scenario.

    Args:
        reference: As for `compare`. It is loaded twice.
        candidate: The implementation that is searched.
        scenario: The recorded inputs, or their file.
        checkpoint: The checkpoint, its folder, or its hub id with a revision.
        dtype: Type of weights and activations: fp32 or bf16.
        device: Device as torch spells it.
        tolerance: The largest relative L2 error of an activation, in place of a noise floor.
        accept_inputs: Names of inputs that may differ.
        allow_missing: Sites that one side may lack, as globs.
        exchange: Parts, groups or globs of sites to exchange besides, found guilty or not.
        gains: Measure how the reference amplifies an error at each cause.
        budget: Seconds after which no new run is begun.
        announce: Told the name of every run that is begun.
        out: Folder of the search: blame.json, and the runs that it rests on. If not given, nothing is kept.

    Returns:
        The causes, the largest first. True where parity holds and nothing is to blame.

    Raises:
        UserError: for a checkpoint, scenario, implementation or exchange that is none.
        EngineError: where an implementation fails.

    Example:
        ```python
        found = wp.blame("eager", "my_port.py:MyPort", "scenario.safetensors", checkpoint="checkpoint")
        for cause in found.causes:
            print(cause.name, cause.first)
        ```
    """
    opened, inputs, numerics = _opened(checkpoint, scenario, dtype, device)
    judged = _standards(opened, dtype, tolerance, accept_inputs, allow_missing, AS_REFERENCE)
    names = _name(reference), _name(candidate)
    case = load_case(*names, opened, numerics, inputs, judged.judgement_of(inputs, opened))
    exchanges = [exchange_called(name, case.candidate.adapter.sites(), opened.family) for name in exchange]
    with tempfile.TemporaryDirectory() if out is None else nullcontext(str(out)) as folder:
        journal = Journal(Path(folder), case.identity, budget=budget, announce=announce)
        found = Search(case, journal, gains=gains, gain_sites=(), exchanges=exchanges).run()
    if out is not None:
        with replacing(Path(out) / BLAME_NAME) as partial:
            partial.write_text(found.to_json(), "utf-8")
    return found


def _opened(
    checkpoint: Checkpoint | str | Path, scenario: Scenario | str | Path, dtype: str, device: str
) -> tuple[Checkpoint, Scenario, Numerics]:
    """What a run needs. Raises UserError for whatever cannot be used."""
    if dtype not in DTYPES:
        raise UserError("dtype: there is none of this name", found=dtype, expected=" or ".join(DTYPES), do="correct it")
    where = usable_device(device)
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
    inputs = scenario if isinstance(scenario, Scenario) else read_scenario(Path(scenario))
    opened.check_scenario(inputs)
    return opened, inputs, Numerics(DTYPES[dtype], where)


def _standards(
    checkpoint: Checkpoint,
    dtype: str,
    tolerance: float | None,
    accept_inputs: tuple[str, ...],
    allow_missing: tuple[str, ...],
    precision: str,
) -> Standards:
    return standards(
        checkpoint.family,
        dtype,
        folder=checkpoint.folder,
        digest=checkpoint.digest,
        tolerance=tolerance,
        accepted_inputs=tuple(accept_inputs),
        allowed_missing=tuple(allow_missing),
        precision=precision,
    )


def _name(implementation: Implementation) -> str:
    """An implementation as the registry finds it."""
    if isinstance(implementation, str):
        return implementation
    return f"{implementation.__module__}:{implementation.__qualname__}"
