"""The command that searches the causes of a divergence."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from waypoint_parity.harness.cli import defaults
from waypoint_parity.harness.cli.cells import CellOptions
from waypoint_parity.harness.cli.options import InterpreterOptions, JudgingOptions, PairNumericsOptions, also
from waypoint_parity.harness.cli.outcome import exit_code, write_json

if TYPE_CHECKING:
    from waypoint_parity.harness.explain.blame.case import Case


@dataclass(frozen=True, kw_only=True)
class BlameCommand:
    """Find what causes a divergence: every part that is wrong by itself.

    Each is told with its share of the final frame's error.

    Example: waypoint-parity blame --candidate my_port.py:MyPort --schedule single-step

    A cell of the last `parity`: waypoint-parity blame --cell right_single-step_seed11_zeroed-padding
    """

    reference: str = "eager"
    """The implementation that is right. It is loaded twice."""
    candidate: str = "candidate"
    """The implementation to search."""
    interpreters: tyro.conf.OmitArgPrefixes[InterpreterOptions] = field(default_factory=InterpreterOptions)
    cells: tyro.conf.OmitArgPrefixes[CellOptions] = field(default_factory=CellOptions)
    checkpoint: str | None = None
    """Checkpoint folder or hub id with its revision; else the small trained world, fixtures/world/checkpoint."""
    scenario: Path | None = None
    """Scenario; else fixtures/scenarios/right.safetensors. The search takes some ten sessions of it."""
    schedule: Annotated[str | None, also("--schedules")] = None
    """Sigma schedule, by name, or as comma-separated values ending in 0; as recorded if not given."""
    seed: Annotated[int | None, also("--seeds")] = None
    """Noise seed; the scenario's own noise if not given."""
    prompt_mask: Annotated[str | None, also("--prompt-masks")] = None
    """Padding of the prompt; as recorded if not given."""
    exchange: tuple[str, ...] = ()
    """Exchange these too, found guilty or not: parts, groups of parts (rope, cache, ...), `block 3`, globs of sites."""
    tries: Annotated[tuple[str, ...], tyro.conf.arg(name="try")] = ()
    """Mistakes of your own to try, as path/to/file.py:function. It is called with a fresh adapter of the reference, and
    makes the mistake there; it is proven where that gives the values that the candidate shows."""
    gains: bool = True
    """Measure how the reference amplifies an error at each cause on its way to the frame."""
    gain_sites: tuple[str, ...] = ()
    """Measure it at these sites too, as globs such as `*.attn`; two sessions for each."""
    ladder: bool = False
    """Print every site with its own and its inherited error, and its gain where that was measured."""
    budget: float | None = None
    """Seconds after which no new run is begun; what was not measured is listed."""
    resume: bool = False
    """Continue the interrupted search in --out. Only if no implementation was changed since."""
    out: Path = Path("reports/out/blame")
    """Folder of the search: blame.json and the runs that it rests on."""
    numerics: tyro.conf.OmitArgPrefixes[PairNumericsOptions] = field(default_factory=PairNumericsOptions)
    judging: tyro.conf.OmitArgPrefixes[JudgingOptions] = field(default_factory=JudgingOptions)

    def run(self) -> int:
        """Search, write what was found and print it."""
        from waypoint_parity.harness.explain.blame.exchanges import exchange_called
        from waypoint_parity.harness.explain.blame.journal import Journal
        from waypoint_parity.harness.explain.blame.result import BLAME_NAME
        from waypoint_parity.harness.explain.blame.search import Search
        from waypoint_parity.harness.explain.blame.text import blame_lines, ladder_lines
        from waypoint_parity.harness.progress import counter

        case = self._of_cell()._case()
        with counter() as announce:
            journal = Journal(self.out, case.identity, resume=self.resume, budget=self.budget, announce=announce)
            exchanges = [
                exchange_called(name, case.candidate.adapter.sites(), case.checkpoint.family) for name in self.exchange
            ]
            search = Search(case, journal, gains=self.gains, gain_sites=self.gain_sites, exchanges=exchanges)
            blame = search.run()
        write_json(blame, self.out / BLAME_NAME)
        print("\n".join([*blame_lines(blame), *(ladder_lines(blame) if self.ladder else [])]))
        return exit_code(blame.comparison.verdict)

    def _of_cell(self) -> "BlameCommand":
        """The same command with what its cell says, where one is named."""
        stored = self.cells.stored()
        if stored is None:
            return self
        return replace(
            self,
            reference=stored.command.reference,
            candidate=stored.candidate,
            interpreters=InterpreterOptions(),
            checkpoint=stored.command.swept.checkpoint,
            scenario=stored.scenario,
            schedule=None,
            seed=None,
            prompt_mask=None,
            numerics=stored.command.numerics,
            judging=stored.command.judging,
        )

    def _case(self) -> "Case":
        """What is searched. Raises UserError for a checkpoint, scenario or implementation that is none."""
        from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
        from waypoint_parity.harness.explain.blame.case import load_case
        from waypoint_parity.harness.explain.blame.hypotheses import hypothesis_called
        from waypoint_parity.harness.run.scenario import read_scenario
        from waypoint_parity.harness.run.variant import Variant

        numerics = self.numerics.applied()
        checkpoint = open_checkpoint(self.checkpoint or defaults.CHECKPOINT)
        recorded = read_scenario(self.scenario or defaults.SCENARIO)
        checkpoint.check_scenario(recorded)
        seed = None if self.seed is None else str(self.seed)
        variant = Variant.of({"schedule": self.schedule, "seed": seed, "mask": self.prompt_mask})
        scenario = variant.apply(recorded, checkpoint.geometry) if variant.levels else recorded
        family = checkpoint.family
        standards = self.judging.standards(
            family, numerics.dtype_name, folder=checkpoint.folder, digest=checkpoint.digest
        )
        judgement = standards.judgement_of(scenario, checkpoint)
        compiled = self.numerics.compiled_sides
        names = self.interpreters.reference(self.reference), self.interpreters.candidate(self.candidate)
        own = [hypothesis_called(name) for name in self.tries]
        return load_case(*names, checkpoint, numerics, scenario, judgement, compiled=compiled, own=own)
