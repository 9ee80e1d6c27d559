"""The command that makes a dump of what another tool recorded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from waypoint_parity.harness.cli.outcome import HOLDS


@dataclass(frozen=True, kw_only=True)
class ImportCommand:
    """Make a dump of what another tool recorded.

    Reads FastVideo's activation trace, msprobe, transformers' model debugging, SGLang's dumper, Polygraphy, and
    plain tensors: .safetensors, .npz, .npy, .pt, and folders of them.

    Example: waypoint-parity import trace.jsonl --out reports/out/theirs --units-from call --rename
    '^blocks=transformer.blocks'
    """

    source: tyro.conf.Positional[Path]
    """The file or folder that the tool wrote. What it is, is told by what it holds."""
    out: Path
    """Folder of the dump. An earlier dump there is replaced once the new one is complete."""
    units_from: Literal["frame", "step", "call"] | None = None
    """Which number of the source is the unit: its frame (if not given), its step, or how often a record came before."""
    steps_from: Literal["step", "call"] | None = None
    """Which number is the step: the source's step (if not given), or how often a record came before."""
    steps_per_unit: int | None = None
    """The step, or with --steps-from call the repetition, counts through all units, with so many steps in each."""
    branches: tuple[str, ...] = ()
    """Repetitions are these branches in turn, such as `cond uncond`, before anything else is made of them."""
    units_along: tuple[str, ...] = ()
    """Names, as globs, whose lists or first axes run over units, such as `frame_latents`."""
    steps_along: tuple[str, ...] | None = None
    """Names, as globs, whose lists or first axes run over steps. If not given, every list of tensors, and no axis."""
    phase: str = "forward"
    """Phase of records whose source tells none."""
    rename: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """`regex=replacement` for names, or a file of such lines; may be repeated. A name that becomes empty is left out.
    One that becomes like `u0/denoise1/SITE` is a whole key."""
    family: str = ""
    """Family whose sites the names are, after --rename."""
    inputs: bool = False
    """Import the inputs of modules too, as NAME.inputs.0."""
    block_outputs: bool = False
    """Of transformers: take the input of what is called behind a numbered block for the block's output."""
    by_name: bool = False
    """Put the tensors of a file in the order of their names, modules behind their parts."""
    rank: str | None = None
    """The process, or its number, whose values are imported where there are several."""
    which_run: Annotated[int | None, tyro.conf.arg(name="run")] = None
    """The run that is imported where a file holds several, from 0."""
    tensors: bool = True
    """Keep the tensors of the source, so that errors are exact."""
    dtype: str | None = None
    """Precision that the run computed in, such as fp32. If not given, the float type of most values."""

    def run(self) -> int:
        """Write the dump, and print what the source could not tell."""
        from waypoint_parity.harness.record.foreign.found import Asked
        from waypoint_parity.harness.record.foreign.importing import Wanted, import_dump
        from waypoint_parity.harness.record.foreign.keys import KeyRules, Renames

        numbers = (self.units_from, self.steps_from, self.steps_per_unit)
        asked = Asked(
            inputs=self.inputs,
            block_outputs=self.block_outputs,
            process=self.rank,
            run=self.which_run,
            repeats_told=bool(self.branches) or any(number is not None for number in numbers),
            by_name=self.by_name,
            units_along=self.units_along,
            steps_along=self.steps_along,
        )
        rules = KeyRules(
            phase=self.phase,
            units_from=self.units_from,
            steps_from=self.steps_from,
            steps_per_unit=self.steps_per_unit,
            branches=self.branches,
        )
        wanted = Wanted(
            asked=asked,
            rules=rules,
            renames=Renames.read(self.rename),
            family=self.family,
            dtype=self.dtype,
            keep_tensors=self.tensors,
        )
        manifest, called = import_dump(self.source, self.out, wanted)
        records = f"{manifest.observed} records of {manifest.units} units"
        print(f"{self.out}: {records}, {manifest.numerics['dtype']}, read as {called}")
        for note in manifest.notes:
            print(f"  {note}")
        return HOLDS
