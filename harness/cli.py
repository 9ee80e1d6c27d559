"""The command line: the one place that puts the parts together, prints, and turns results into exit codes.

0: parity holds. 1: it does not. 2: the runs cannot be compared, or the call is wrong. 70: a fault of the harness.
"""

import sys
import traceback
from collections.abc import Iterator, Sequence
from functools import singledispatch
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from harness import arguments
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.adapter import Numerics, Prompt
    from harness.checkpoint import Checkpoint
    from harness.comparison import Verdict
    from harness.judgement import Judgement
    from harness.parity import Cell
    from harness.scenario import Scenario
    from harness.variant import Variant

HOLDS, FAILS, UNUSABLE, OUR_FAULT = 0, 1, 2, 70


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv`, print its outcome and return the exit code."""
    command = arguments.parse(argv)
    try:
        return execute(command)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        print("this is a fault of waypoint-parity or of the adapter above, please report it", file=sys.stderr)
        return OUR_FAULT


# Each command imports what it needs: torch alone takes longer than parsing and `--help` together.


@singledispatch
def execute(command: object) -> int:
    """Run one parsed command and return its exit code."""
    raise TypeError(f"no command {command!r}")


@execute.register
def _dump(command: arguments.Dump) -> int:
    from harness import registry
    from harness.checkpoint import open_checkpoint
    from harness.dump import DumpWriter, describe_run
    from harness.recorder import Recorder
    from harness.scenario import read_scenario
    from harness.session import run

    numerics = _numerics(command.numerics)
    checkpoint, scenario = open_checkpoint(command.checkpoint), read_scenario(command.scenario)
    scenario.check(checkpoint.transformer)
    adapter = registry.load(command.implementation, checkpoint, numerics)
    manifest = describe_run(command.implementation, adapter, numerics, checkpoint, scenario)
    writer = DumpWriter(command.out, manifest, keep=["*"] if command.tensors else [])
    with writer, Recorder(adapter.sites(), writer) as recorder:
        run(adapter, scenario, checkpoint.transformer, recorder)
    print(f"{command.out}: {manifest.observed} records of {manifest.expected} expected, {manifest.seconds:.1f} s")
    return HOLDS


@execute.register
def _diff(command: arguments.Diff) -> int:
    from harness.diff import diff
    from harness.records import read_manifest, to_json
    from harness.render import comparison_lines
    from harness.storage import replacing

    dtype = read_manifest(command.reference).numerics["dtype"]
    comparison = diff(command.reference, command.candidate, _judgement(command.judging, dtype))
    print("\n".join(comparison_lines(comparison)))
    if command.json is not None:
        with replacing(command.json) as partial:
            partial.write_bytes(to_json(comparison))
    return _exit_code(comparison.verdict)


@execute.register
def _parity(command: arguments.Parity) -> int:
    from harness.parity import ParityRun, plan, run_parity
    from harness.storage import replacing
    from reports.summary import summary_markdown, summary_table

    checkpoint, swept = sweep(command)
    cells = plan(checkpoint, swept)
    judgement = _judgement(command.judging, command.numerics.dtype)
    numerics = _numerics(command.numerics)
    run = ParityRun(command.reference, command.candidate, checkpoint, numerics, judgement, command.out)
    summary = run_parity(run, cells, _progress)
    with replacing(command.out / "summary.md") as partial:
        partial.write_text(summary_markdown(summary), "utf-8")
    print(summary_table(summary))
    print(f"{summary.verdict}: {len(summary.variants)} variants in {summary.seconds:.0f} s, details in {command.out}")
    return _exit_code(summary.verdict)


@execute.register
def _info(command: arguments.Info) -> int:
    from harness import registry
    from harness.checkpoint import open_checkpoint
    from harness.info import checkpoint_lines
    from harness.inspection import inspect_checkpoint
    from harness.records import to_json
    from harness.storage import replacing

    if command.checkpoint is None:
        for name, point in sorted(registry.registered().items()):
            print(f"{name:16} {point.value}")
        return HOLDS
    checkpoint = open_checkpoint(command.checkpoint, check=False)
    against = None if command.against is None else open_checkpoint(command.against, check=False)
    numerics = _numerics(command.numerics)
    inspection = inspect_checkpoint(checkpoint, command.implementation, against, numerics=numerics)
    print("\n".join(checkpoint_lines(checkpoint, inspection, all_keys=command.keys)))
    if command.json is not None:
        with replacing(command.json) as partial:
            partial.write_bytes(to_json(inspection.to_json()))
    return HOLDS if inspection else FAILS


@execute.register
def _convert(command: arguments.Convert) -> int:
    from harness.checkpoint import open_checkpoint
    from harness.convert import convert

    checkpoint = open_checkpoint(command.source)
    written = convert(checkpoint, command.to, command.out, force=command.force)
    outcome = f"{command.to} layout of" if written else "left as it is, holds already"
    print(f"{command.out}: {outcome} {checkpoint.origin}, digest {checkpoint.digest}")
    return HOLDS


@execute.register
def _scenario(command: arguments.Scenario) -> int:
    return execute(command.action)


@execute.register
def _scenario_make(command: arguments.ScenarioMake) -> int:
    from harness.checkpoint import open_checkpoint
    from harness.info import scenario_lines
    from harness.make_scenario import DRAWN_TOKENS, make_scenario, read_image
    from harness.scenario import write_scenario

    scenario = make_scenario(
        open_checkpoint(command.checkpoint).transformer,
        name=command.out.stem,
        frames=command.frames,
        seed=command.seed,
        noise_policy=command.noise_policy,
        controls=command.controls,
        prompt_tokens=DRAWN_TOKENS if command.prompt_tokens is None else command.prompt_tokens,
        prompt_padding=command.prompt_padding,
        prompt=_encoded_prompt(command),
        image=None if command.image is None else read_image(command.image),
    )
    write_scenario(scenario, command.out)
    print("\n".join(scenario_lines(scenario)))
    return HOLDS


def _encoded_prompt(command: arguments.ScenarioMake) -> "Prompt | None":
    """The prompt of the text that was given, encoded. Raises UserError for an encoder without a text."""
    from harness.prompt_encoder import TEXT_ENCODER, TOKENS, encode_prompt

    if command.prompt is None:
        if command.text_encoder is not None:
            raise UserError(
                "there is nothing to encode",
                found=f"--text-encoder {command.text_encoder} alone",
                expected="a text for it",
                do="add --prompt, or leave --text-encoder out",
            )
        return None
    tokens = TOKENS if command.prompt_tokens is None else command.prompt_tokens
    return encode_prompt(command.prompt, command.text_encoder or TEXT_ENCODER, tokens)


@execute.register
def _scenario_show(command: arguments.ScenarioShow) -> int:
    from harness.info import scenario_lines
    from harness.scenario import read_scenario

    print("\n".join(scenario_lines(read_scenario(command.scenario))))
    return HOLDS


def _numerics(chosen: arguments.Numerics) -> "Numerics":
    """The numerics asked for, after setting the thread count of this process. Raises UserError for an absent device."""
    import torch

    from harness.adapter import DTYPES, Numerics

    if chosen.threads is not None:
        _set_threads(chosen.threads)
    try:
        device = torch.device(chosen.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {chosen.device} cannot be used",
            found=str(error).splitlines()[0],
            expected="a device that this torch build and this machine have",
            do="give another --device, or install a torch build for it",
        ) from error
    options = ("trust-remote-code",) if chosen.trust_remote_code else ()
    return Numerics(DTYPES[chosen.dtype], device, chosen.compiled, options)


def _set_threads(threads: int) -> None:
    import torch

    if threads < 1:
        raise UserError(
            "threads cannot be set", found=str(threads), expected="at least 1", do="correct --threads, or leave it out"
        )
    torch.set_num_threads(threads)


def _judgement(judging: arguments.Judging, dtype: str) -> "Judgement":
    from harness.judgement import FIXED, Judgement, Tolerance, fixed_tolerance

    if judging.tolerance is None:
        tolerance = fixed_tolerance(dtype)
    else:
        tolerance = Tolerance(judging.tolerance, FIXED[dtype].frame if dtype in FIXED else judging.tolerance)
    return Judgement(tolerance, judging.accept_inputs, judging.allow_missing)


def sweep(command: arguments.Parity) -> "tuple[Checkpoint, list[tuple[Scenario, Sequence[Variant]]]]":
    """The checkpoint, and each scenario with its variants. What is not given comes from fixtures/."""
    from harness.checkpoint import open_checkpoint
    from harness.scenario import read_scenario
    from harness.variant import Variant, grid

    fixtures = Path(str(resources.files("fixtures")))
    checkpoint = open_checkpoint(command.checkpoint or fixtures / "golden" / "base")
    scenario = read_scenario(command.scenario or fixtures / "scenarios" / "walk.safetensors")
    masks = command.prompt_masks if checkpoint.transformer.prompt_conditioning else (None,)
    swept: list[tuple[Scenario, Sequence[Variant]]] = [(scenario, list(grid(command.schedules, command.seeds, masks)))]
    image = command.image_scenario
    if image is None and command.scenario is None:
        image = fixtures / "scenarios" / "photograph.safetensors"
    if image is not None:
        swept.append((read_scenario(image), [Variant()]))
    return checkpoint, swept


def _progress(cells: "Sequence[Cell]") -> "Iterator[Cell]":
    """`cells`, with a bar on a terminal."""
    from tqdm import tqdm

    bar = tqdm(cells, unit="variant", disable=None)
    for cell in bar:
        bar.set_postfix_str(cell.name)
        yield cell


def _exit_code(verdict: "Verdict") -> int:
    from harness.comparison import Verdict

    if verdict is Verdict.INCOMPARABLE:
        return UNUSABLE
    return HOLDS if verdict.passes else FAILS


if __name__ == "__main__":
    sys.exit(main())
