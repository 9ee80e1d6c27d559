from typing import Any

import msgspec
import pytest

from tests.harness.explain.blame.candidates import CHECKPOINT, GEOMETRY, TABLE
from waypoint_parity.harness.explain.blame.causes import Measured, annotated, cause, ranked
from waypoint_parity.harness.explain.blame.findings import Finding
from waypoint_parity.harness.explain.blame.result import Cause, LocalError, Proof, Share, SiteErrors
from waypoint_parity.harness.families.waypoint.draws import make_scenario
from waypoint_parity.harness.judge.comparison import Verdict, WorstAtSite
from waypoint_parity.harness.judge.judgement import Tolerance
from waypoint_parity.harness.judge.table import incomparable

SCENARIO = make_scenario(GEOMETRY, name="two", units=2, seed=0)
NOT_MEASURED = Measured(necessity=None, sufficiency=None, gain=None, controls=[])


def share(final: float | None, every: float | None = None) -> Share:
    return Share(mean_abs=final, ssim=final, sharpness=final, all_pictures=final if every is None else every)


def seen(site: str, rel_l2: float | None = 0.1, **changes: Any) -> LocalError:
    values: dict[str, Any] = {"unit": 0, "phase": "denoise", "step": 0, "call": 0, "bound": 1e-6} | changes
    return LocalError(site=site, rel_l2=rel_l2, **values)


def finding(*errors: LocalError, part: str = "velocity", blocks: list[int] | None = None) -> Finding:
    return Finding(part=part, errors=list(errors), observed=9, blocks=blocks, region=["out_norm"])


def caused(part: str, necessity: Share | None, rel_l2: float | None = 0.1) -> Cause:
    measured = Measured(necessity=necessity, sufficiency=None, gain=None, controls=[])
    site = next(row.name for row in TABLE.rows if row.part == part)
    return cause(finding(seen(site, rel_l2), part=part), measured, CHECKPOINT, SCENARIO)


def order(*causes: Cause) -> list[str]:
    return [found.part for found in ranked(causes)]


def test_a_cause_tells_what_was_found_and_what_it_costs() -> None:
    errors = [
        seen("transformer.blocks.1.mlp"),
        seen("transformer.blocks.1.mlp", 0.3, unit=1),
        seen("transformer.blocks.2.mlp"),
    ]
    measured = Measured(necessity=share(1.0), sufficiency=share(0.9), gain=2.0, controls=["only with padding"])
    told = cause(finding(*errors, part="mlp", blocks=[1, 2]), measured, CHECKPOINT, SCENARIO)
    assert (told.name, told.part, told.group, told.blocks) == ("mlp of blocks 1, 2", "mlp", "mlp", [1, 2])
    assert told.sites == ["transformer.blocks.1.mlp", "transformer.blocks.2.mlp"]
    assert (told.first, told.worst) == (errors[0], errors[1])
    assert (told.failed, told.observed, told.region) == (3, 9, ["out_norm"])
    assert told.region_parts == ["output norm"]
    assert (told.necessity, told.sufficiency, told.gain) == (share(1.0), share(0.9), 2.0)
    assert told.signature.controls == ["only with padding"]


def test_an_error_without_a_distance_is_the_worst() -> None:
    errors = [seen("velocity", 0.5), seen("velocity", None, note="NaN", step=1), seen("velocity", 0.7, unit=1)]
    told = cause(finding(*errors), NOT_MEASURED, CHECKPOINT, SCENARIO)
    assert told.worst.note == "NaN"
    (alone,) = errors[1:2]
    assert "no distance" in cause(finding(alone), NOT_MEASURED, CHECKPOINT, SCENARIO).signature.onset


def test_what_was_not_measured_is_not_made_up() -> None:
    told = cause(finding(seen("velocity")), NOT_MEASURED, CHECKPOINT, SCENARIO)
    assert (told.necessity, told.sufficiency, told.gain, told.signature.controls) == (None, None, None, [])


def test_the_parts_before_a_cause_are_told_in_the_order_of_execution() -> None:
    found = msgspec.structs.replace(finding(seen("velocity")), region=["velocity", "out_norm", "patchify"])
    told = cause(found, NOT_MEASURED, CHECKPOINT, SCENARIO)
    assert told.region_parts == ["patchify", "output norm", "velocity"]


def test_the_cause_without_which_the_final_picture_gains_most_comes_first() -> None:
    causes = [caused("mlp", share(0.2), 0.9), caused("velocity", share(0.8), 0.1), caused("patchify", share(-0.5))]
    assert order(*causes) == order(*reversed(causes)) == ["velocity", "mlp", "patchify"]


def test_a_cause_that_does_not_reach_the_final_picture_goes_by_all_pictures_behind_those_that_do() -> None:
    early = [caused("mlp", share(None, 0.3)), caused("sampler", share(None, 0.6))]
    assert order(*early, caused("velocity", share(0.1, 0.1))) == ["velocity", "sampler", "mlp"]


def test_causes_that_cost_the_same_or_were_not_measured_go_by_their_errors() -> None:
    assert order(caused("mlp", None, 0.1), caused("velocity", None, 0.2)) == ["velocity", "mlp"]
    assert order(caused("mlp", share(1.0), 0.9), caused("velocity", share(1.0), None)) == ["velocity", "mlp"]
    assert order(caused("mlp", None, 0.9), caused("velocity", share(0.0), 0.1)) == ["velocity", "mlp"]


@pytest.mark.parametrize("phase", ["denoise", "cache"])
def test_the_ladder_is_given_the_errors_of_the_free_session_at_the_same_rungs_and_gains_by_site(phase: str) -> None:
    def rung(step: int, site: str) -> SiteErrors:
        return SiteErrors(phase=phase, step=step, site=site, local=0.1, bound=1e-6)

    free = WorstAtSite(
        phase=phase, step=1, site="velocity", rel_l2=0.4, tolerance=1e-5, unit=0, failed=1, observations=1
    )
    compared = incomparable("eager", "mine", "made by hand", bounds=Tolerance(1e-5, 1e-3), evidence="tensors")
    compared = msgspec.structs.replace(compared, sites=[free], verdict=Verdict.DIVERGED)
    ladder = annotated([rung(0, "velocity"), rung(1, "velocity"), rung(1, "latent")], compared, {"velocity": 3.0})
    assert [rung.inherited for rung in ladder] == [None, 0.4, None]
    assert [rung.gain for rung in ladder] == [3.0, 3.0, None]
    assert [(rung.step, rung.site, rung.local) for rung in ladder] == [
        (0, "velocity", 0.1),
        (1, "velocity", 0.1),
        (1, "latent", 0.1),
    ]


def test_a_mistake_that_several_causes_show_is_ranked_at_the_part_that_it_belongs_to() -> None:
    kind = next(kind for kind in CHECKPOINT.family.kinds if kind.parts[:1] == ("residual",))

    def shown(part: str, necessity: float, statement: str) -> Cause:
        proof = Proof(site="site", by="hypothesis", statement=statement, before=0.1, after=0.0, observations=2)
        return msgspec.structs.replace(caused(part, share(necessity)), proofs=[proof])

    alike = [shown("mlp", 0.9, f"{kind.kind}: alike"), shown("residual", 0.1, f"{kind.kind}: alike")]
    assert [found.part for found in ranked(alike, CHECKPOINT.family)] == ["residual", "mlp"]
    unlike = [shown("mlp", 0.9, f"{kind.kind}: one"), shown("residual", 0.1, f"{kind.kind}: other")]
    assert [found.part for found in ranked(unlike, CHECKPOINT.family)] == ["mlp", "residual"]
