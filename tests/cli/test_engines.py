"""Commands that drive an engine which misbehaves: it is refused, told with its place, or compared; it never passes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli import engines
from tests.cli.conftest import PARTS, Outcome, refused, run, script
from waypoint_parity.fixtures.tiny import write_waypoint_15
from waypoint_parity.harness.sweep.summary import read_summary

SHORT = ("--as-recorded", "--no-blame", "--no-exact")


def named(engine: type) -> str:
    return f"{engines.__file__}:{engine.__name__}"


@pytest.fixture
def inputs(tiny_folder: Path, scenario_file: Path) -> tuple[object, ...]:
    return ("--checkpoint", tiny_folder, "--scenario", scenario_file)


@pytest.fixture
def parity(inputs: tuple[object, ...], tmp_path: Path) -> Callable[..., Outcome]:
    def judged(candidate: type, *more: object, jobs: int = 1) -> Outcome:
        out = ("--out", tmp_path / "out", "--jobs", jobs)
        return run("parity", "--candidate", named(candidate), *inputs, *out, *SHORT, *more)

    return judged


def failed(outcome: Outcome) -> dict[str, str]:
    """The four parts of an engine's failure."""
    assert outcome.code == 70, outcome
    assert "Traceback" not in outcome.err
    parts = PARTS.fullmatch(outcome.err)
    assert parts, outcome.err
    return parts.groupdict()


# --- an engine that ends


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("engine", "words"),
    [
        (engines.Ending, "an illegal memory access"),
        (engines.Leaving, "SystemExit"),
        (engines.Interrupting, "KeyboardInterrupt"),
        (engines.Stopping, "StopIteration"),
        (engines.EndsInItsOwnWay, "OwnEnd"),
        (engines.UnprintableWords, "udcff"),
    ],
)
def test_an_engine_that_ends_is_told_with_its_words_and_its_place(
    dump: Callable[..., tuple[object, ...]], engine: type, words: str
) -> None:
    parts = failed(run(*dump(named(engine))))
    assert words in parts["found"]
    assert "unit 1, denoise step 0" in parts["what"]
    assert "engines.py, line" in parts["found"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("engine", [engines.LeavingWithoutAWord, engines.LeavingInC, engines.Crashing])
def test_a_process_that_an_engine_ends_without_a_word_is_told(
    dump: Callable[..., tuple[object, ...]], inputs: tuple[object, ...], tmp_path: Path, engine: type
) -> None:
    assert "without a word" in failed(script(*dump(named(engine))))["what"]
    out = ("--out", tmp_path / "parity", "--jobs", 1)
    assert script("parity", "--candidate", named(engine), *inputs, *out, *SHORT).code == 70


@pytest.mark.slow
def test_a_process_that_an_engine_ends_when_all_is_done_has_its_verdict(
    inputs: tuple[object, ...], tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "parity", "--jobs", 1)
    assert script("parity", "--candidate", named(engines.LeavingAtTheEnd), *inputs, *out, *SHORT).code == 1


def test_a_thread_that_never_ends_keeps_nobody_waiting(dump: Callable[..., tuple[object, ...]]) -> None:
    assert script(*dump(named(engines.NeverEnding))).code == 0


@pytest.mark.sampled(1)
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    "engine",
    [
        engines.Ending,
        pytest.param(engines.Leaving, marks=pytest.mark.slow),
        pytest.param(engines.EndsInItsOwnWay, marks=pytest.mark.slow),
        pytest.param(engines.UnprintableWords, marks=pytest.mark.slow),
    ],
)
def test_a_cell_whose_engine_ends_has_failed(
    parity: Callable[..., Outcome], tmp_path: Path, engine: type, jobs: int
) -> None:
    outcome = parity(engine, jobs=jobs)
    assert outcome.code == 70, outcome
    (failure,) = read_summary(tmp_path / "out" / "summary.json").failures
    assert "unit 1, denoise step 0" in failure.message
    assert "Traceback" not in outcome.out + outcome.err
    assert "unit 1, denoise step 0" in (tmp_path / "out" / "report.html").read_text()


def test_what_was_recorded_before_an_engine_ended_is_compared_and_does_not_pass(
    dump: Callable[..., tuple[object, ...]], dumps: Path, tmp_path: Path
) -> None:
    assert run(*dump(named(engines.Ending))).code == 70
    outcome = run(
        "diff", dumps / "reference", tmp_path / "out", "--json", tmp_path / "diff.json", "--allow-missing", "*"
    )
    assert outcome.code == 1, outcome
    found = json.loads((tmp_path / "diff.json").read_text())
    assert found["counts"]["IDENTICAL"] > 0
    assert any("incomplete" in each and "illegal memory access" in each for each in found["contradictions"])


def test_what_a_failed_cell_recorded_is_kept(parity: Callable[..., Outcome], dumps: Path, tmp_path: Path) -> None:
    assert parity(engines.Ending).code == 70
    (kept,) = (tmp_path / "out" / "failed").iterdir()
    assert run("diff", dumps / "reference", kept / "candidate").code == 1


@pytest.mark.parametrize("engine", [engines.Unloadable, engines.LeavingOnLoad])
def test_an_engine_that_cannot_be_loaded_is_told(dump: Callable[..., tuple[object, ...]], engine: type) -> None:
    assert "loaded" in failed(run(*dump(named(engine))))["what"]


def test_blame_tells_of_an_engine_that_ends(inputs: tuple[object, ...], tmp_path: Path) -> None:
    outcome = run("blame", "--candidate", named(engines.Leaving), *inputs, "--out", tmp_path / "out")
    assert "SystemExit" in failed(outcome)["found"]


# --- an engine that keeps something from one session to the next


@pytest.mark.sampled(1)
@pytest.mark.parametrize("exact", ["--exact", "--no-exact"])
@pytest.mark.parametrize(
    "engine",
    [
        engines.KeepsTheClock,
        pytest.param(engines.KeepsDilatedRings, marks=pytest.mark.slow),
        pytest.param(engines.KeepsThePrompt, marks=pytest.mark.slow),
        pytest.param(engines.KeepsTheLatent, marks=pytest.mark.slow),
        pytest.param(engines.FailsTheSecondTime, marks=pytest.mark.slow),
    ],
)
def test_what_outlives_a_session_is_named_by_parity(
    inputs: tuple[object, ...], tmp_path: Path, engine: type, exact: str
) -> None:
    out = ("--out", tmp_path / "out", "--jobs", 1)
    short = ("--schedule", "single-step", "--seed", 1, "--prompt-mask", "zeroed", "--no-blame")
    outcome = run("parity", "--candidate", named(engine), *inputs, *out, *short, exact)
    assert outcome.code not in (0, 70), outcome
    summary = read_summary(tmp_path / "out" / "summary.json")
    (comparison,) = summary.variants.values()
    assert not comparison
    assert any(engine.__name__ in each for each in comparison.contradictions)
    assert comparison.contradictions[0] in outcome.out
    assert engine.__name__ in (tmp_path / "out" / "report.html").read_text()
    assert summary.verdict.name in (tmp_path / "out" / "junit.xml").read_text()


@pytest.mark.slow
def test_a_decoder_that_remembers_another_session_is_named_at_its_first_block(tmp_path: Path) -> None:
    folder, scenario = write_waypoint_15(tmp_path / "checkpoint"), tmp_path / "scenario.safetensors"
    made = run("scenario", "make", "--checkpoint", folder, "--out", scenario, "--frames", 1)
    assert made.code == 0, made
    inputs = ("--checkpoint", folder, "--scenario", scenario, "--schedule", "single-step", "--seed", 1)
    out = tmp_path / "out"
    run(
        "parity", "--candidate", named(engines.KeepsTheDecodersMemory), *inputs, "--no-blame", "--out", out, "--jobs", 1
    )
    (comparison,) = read_summary(out / "summary.json").variants.values()
    assert not comparison
    assert "u0/decode0/decoder.3" in comparison.contradictions[0]


def test_what_a_side_writes_into_its_inputs_the_other_one_does_not_see(parity: Callable[..., Outcome]) -> None:
    assert parity(engines.WritesIntoItsInputs).code == 2


def test_a_candidate_that_changes_the_reference_is_named(parity: Callable[..., Outcome], tmp_path: Path) -> None:
    assert parity(engines.PatchesTheReference).code == 1
    (comparison,) = read_summary(tmp_path / "out" / "summary.json").variants.values()
    assert "PatchesTheReference" in comparison.contradictions[0]


def test_a_run_that_ends_midway_leaves_no_document_of_an_earlier_one(
    parity: Callable[..., Outcome], inputs: tuple[object, ...], tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "out", "--jobs", 1)
    assert run("parity", "--candidate", "eager", *inputs, *out, *SHORT).code == 0
    assert script("parity", "--candidate", named(engines.LeavingWithoutAWord), *inputs, *out, *SHORT).code == 70
    assert not any((tmp_path / "out" / name).exists() for name in ("summary.json", "junit.xml", "report.html"))


# --- what an adapter says


@pytest.mark.parametrize(
    "engine",
    [
        engines.OtherPhase,
        engines.NoGenerator,
        engines.EmptySession,
        engines.Functions,
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in (
                engines.NoPass,
                engines.OddStep,
                engines.NoStart,
                engines.NotDescribed,
                engines.BareModules,
                engines.NoSites,
            )
        ),
    ],
)
def test_a_mistake_in_an_adapter_is_refused(
    dump: Callable[..., tuple[object, ...]], parity: Callable[..., Outcome], engine: type
) -> None:
    assert engine.__name__ in refused(*dump(named(engine)))["what"]
    assert parity(engine).code == 2


def test_a_phase_that_does_not_exist_is_told_with_those_that_do(dump: Callable[..., tuple[object, ...]]) -> None:
    parts = refused(*dump(named(engines.OtherPhase)))
    assert "'vae'" in parts["found"]
    assert "decode" in parts["expected"]


def test_a_misspelt_site_is_told_with_the_name_that_was_meant(dump: Callable[..., tuple[object, ...]]) -> None:
    parts = refused(*dump(named(engines.Misspelt)))
    assert parts["found"] == "transformer.block.1.mlp"
    assert "transformer.blocks.1.mlp" in parts["expected"]


def test_a_description_of_numbers_is_written_as_text(dump: Callable[..., tuple[object, ...]], tmp_path: Path) -> None:
    assert run(*dump(named(engines.Described))).code == 0
    assert run("diff", tmp_path / "out", tmp_path / "out").code == 0


# --- sites that do not show


@pytest.mark.sampled(1)
@pytest.mark.parametrize("engine", [engines.Silent, engines.SilentAndBlack, engines.NoDecodePass])
def test_a_site_that_is_named_and_does_not_show_is_never_allowed(
    parity: Callable[..., Outcome], dump: Callable[..., tuple[object, ...]], dumps: Path, tmp_path: Path, engine: type
) -> None:
    assert parity(engine, "--allow-missing", "*").code == 1
    assert run(*dump(named(engine), out=tmp_path / "dump")).code == 0
    outcome = run("diff", dumps / "reference", tmp_path / "dump", "--allow-missing", "*")
    assert outcome.code == 1, outcome
    assert outcome.out.startswith("MISSING")


def test_that_no_picture_was_compared_stands_in_the_first_line(
    parity: Callable[..., Outcome], dump: Callable[..., tuple[object, ...]], tmp_path: Path
) -> None:
    run(*dump("eager", "--sites", "latent"))
    first = run("diff", tmp_path / "out", tmp_path / "out").out.partition("\n")[0]
    assert "no picture" in first


# --- what sites show


@pytest.mark.parametrize("engine", [engines.Pair, engines.Failing])
def test_what_is_no_tensor_is_refused_with_its_site(dump: Callable[..., tuple[object, ...]], engine: type) -> None:
    parts = refused(*dump(named(engine)))
    assert engines.PLACE in parts["what"]
    assert "layout=" in parts["do"]


@pytest.mark.parametrize("engine", [engines.FrameFloat, engines.FrameChannelsFirst, engines.FrameWithAlpha])
def test_a_picture_in_another_form_is_refused(dump: Callable[..., tuple[object, ...]], engine: type) -> None:
    assert "frame" in refused(*dump(named(engine)))["what"]


# --- rings


def test_what_a_ring_holds_that_was_never_written_does_not_count(
    parity: Callable[..., Outcome], dump: Callable[..., tuple[object, ...]], dumps: Path, tmp_path: Path
) -> None:
    assert parity(engines.Uncleared).code == 0
    assert run(*dump(named(engines.Uncleared), out=tmp_path / "dump")).code == 0
    assert run("diff", dumps / "reference", tmp_path / "dump").code == 0


def test_keys_that_are_no_numbers_are_no_slot_of_another_frame(parity: Callable[..., Outcome], tmp_path: Path) -> None:
    assert parity(engines.NotANumber).code == 1
    (comparison,) = read_summary(tmp_path / "out" / "summary.json").variants.values()
    assert comparison.first is not None
    assert comparison.first.site == f"{engines.PLACE}.attn.k_rope"
    assert all("NaN" in slot.message for slot in comparison.slots)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("exact", ["--exact", "--no-exact"])
def test_a_ring_of_another_size_is_told_and_costs_nothing_else(
    inputs: tuple[object, ...], tmp_path: Path, exact: str
) -> None:
    out = ("--out", tmp_path / "out", "--jobs", 1)
    outcome = run("parity", "--candidate", named(engines.OtherRing), *inputs, *out, "--as-recorded", exact)
    assert outcome.code == 1, outcome
    summary = read_summary(tmp_path / "out" / "summary.json")
    (comparison,) = summary.variants.values()
    assert comparison.first is not None
    assert comparison.first.site.startswith("kv_cache.layers.0.")
    assert summary.not_blamed is None
    assert summary.causes
