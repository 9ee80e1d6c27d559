import re
from collections.abc import Iterator
from xml.etree import ElementTree

import msgspec
import pytest

from tests.harness import implementations
from tests.harness.observations import FAMILY
from tests.reports.summaries import PICTURES, UNFIT, answered, comparison, summary_of
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.lockstep import Side
from waypoint_parity.harness.judge.comparison import TEACHER_FORCED, Comparison, LatentError
from waypoint_parity.harness.judge.judgement import Judgement, fixed_tolerance
from waypoint_parity.harness.judge.live import lockstep
from waypoint_parity.harness.record.records import PictureAt
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.sweep.summary import CellFailure
from waypoint_parity.reports.junit import junit_xml

# Of the JUnit schema that Jenkins publishes (jenkins-junit.xsd): what an element may hold, which attributes it must
# have, and which it may have.
SCHEMA = {
    "testsuites": ({"testsuite"}, set(), {"name", "time", "tests", "failures", "errors", "disabled"}),
    "testsuite": (
        {"properties", "testcase", "system-out", "system-err"},
        {"name", "tests"},
        {"failures", "errors", "time", "skipped", "disabled", "timestamp", "hostname", "id", "package"},
    ),
    "properties": ({"property"}, set(), set()),
    "property": (set(), {"name", "value"}, set()),
    "testcase": (
        {"skipped", "error", "failure", "system-out", "system-err"},
        {"name", "classname"},
        {"time", "status", "assertions"},
    ),
    "skipped": (set(), set(), {"type", "message"}),
    "error": (set(), set(), {"type", "message"}),
    "failure": (set(), set(), {"type", "message"}),
}
COUNTS = {"tests", "failures", "errors", "skipped"}


def walk(element: ElementTree.Element) -> Iterator[ElementTree.Element]:
    yield element
    for child in element:
        yield from walk(child)


def parsed(text: str) -> ElementTree.Element:
    """The document, after it was held against the schema, and its counts against its cases."""
    root = ElementTree.fromstring(text.encode())
    assert root.tag == "testsuites"
    for element in walk(root):
        children, required, optional = SCHEMA[element.tag]
        assert {child.tag for child in element} <= children
        assert required <= element.attrib.keys() <= required | optional
        for name, value in element.attrib.items():
            assert name not in COUNTS or value.isdecimal()
            assert name != "time" or re.fullmatch(r"\d+\.\d+", value)
        if element.tag == "testcase":
            assert len([child for child in element if child.tag in ("skipped", "error", "failure")]) <= 1
        if element.tag in ("testsuites", "testsuite"):
            cases = list(element.iter("testcase"))
            assert element.get("tests") == str(len(cases))
            assert element.get("failures") == str(sum(case.find("failure") is not None for case in cases))
            assert element.get("errors") == str(sum(case.find("error") is not None for case in cases))
    assert len({suite.get("name") for suite in root}) == len(root)
    return root


def cases(suite: ElementTree.Element) -> dict[str, str]:
    """What became of every case of a suite."""
    found = {
        str(case.get("name")): next((child.tag for child in case if len(case)), "passed")
        for case in suite.iter("testcase")
    }
    assert len(found) == len(list(suite.iter("testcase")))
    return found


def message(suite: ElementTree.Element, case: str) -> str:
    """The message of a case that did not pass, and its text."""
    (child,) = suite.find(f"testcase[@name='{case}']") or ()
    return f"{child.get('message')}\n{child.text}"


def test_a_cell_that_passes_has_a_case_for_every_part_and_frame_and_says_where_nothing_was_seen() -> None:
    (suite,) = parsed(junit_xml(summary_of({"walk_seed11": comparison(7e-7)})))
    assert suite.get("name") == "walk_seed11"
    assert suite.get("time") == "1.500"
    found = cases(suite)
    assert list(found) == ["verdict", *(part.name for part in FAMILY.parts), "frame 0", "frame 1"]
    seen = {"verdict", "patchify", "residual", "frame 0", "frame 1"}
    assert found == {name: "passed" if name in seen else "skipped" for name in found}
    told = {of.attrib["name"]: of.attrib["value"] for of in suite.iter("property")}
    assert told == {"seed": "11", "reused": "false"}


def test_a_part_that_fails_says_where_first_and_where_the_cell_did() -> None:
    diverged = comparison(0.02)
    (suite,) = parsed(junit_xml(summary_of({"walk": diverged})))
    found = cases(suite)
    assert {name for name, outcome in found.items() if outcome == "failure"} == {"verdict", "residual"}
    assert (
        message(suite, "residual")
        == f"{diverged.first}\n{diverged.first}\nfirst divergence of the cell: {diverged.first}"
    )
    assert message(suite, "verdict").startswith(
        f"first divergence: {diverged.first}\nDIVERGED: candidate against eager\n"
    )


def test_a_part_whose_failures_were_not_kept_tells_its_worst() -> None:
    cut = msgspec.structs.replace(comparison(0.02), failures=[])
    (suite,) = parsed(junit_xml(summary_of({"walk": cut})))
    assert message(suite, "residual").startswith("transformer.blocks.2 at unit 4, denoise step 0: relative L2 2.00e-02")
    assert "1 of 1 failed" in message(suite, "residual")


@pytest.mark.parametrize(
    ("of", "says"),
    [
        (answered(1e-3, 0.25), "other mathematics, exact values 1.0e-03 apart, bound 1e-10; as computed 4.00e-05"),
        (answered(2e-14, 24.0), "less precise than rounding explains, 24 times its bound; as computed 4.00e-05"),
    ],
)
def test_a_failure_says_what_is_wrong_by_itself_also_where_it_was_not_kept(of: Comparison, says: str) -> None:
    (suite,) = parsed(junit_xml(summary_of({"walk": of})))
    assert message(suite, "residual").startswith(f"transformer.blocks.2 at unit 4, denoise step 0: {says}\n")
    (suite,) = parsed(junit_xml(summary_of({"walk": msgspec.structs.replace(of, failures=[])})))
    expected = f"transformer.blocks.2 at unit 4, denoise step 0: {says}; 1 of 1 failed\n"
    assert message(suite, "residual").startswith(expected)


def test_a_cell_that_passes_by_exact_values_has_no_case_that_fails() -> None:
    (suite,) = parsed(junit_xml(summary_of({"walk": answered(2e-14, 0.25)})))
    assert "failure" not in cases(suite).values()


def test_a_frame_fails_by_its_latent_and_by_its_picture() -> None:
    growth = [LatentError(unit=unit, rel_l2=error, tolerance=1e-5) for unit, error in enumerate((1e-7, 4e-5, 1e-7))]
    pictures = [
        msgspec.structs.replace(PICTURES[1], at=PictureAt(unit), rel_l2=0.01, bound=bound)
        for unit, bound in ((0, 1.0), (2, 1e-3))
    ]
    wrong = msgspec.structs.replace(comparison(0.02), growth=growth, pictures=pictures)
    (suite,) = parsed(junit_xml(summary_of({"walk": wrong})))
    found = cases(suite)
    assert [found[f"frame {frame}"] for frame in range(3)] == ["passed", "failure", "failure"]
    assert message(suite, "frame 1").startswith("the final latent of frame 1: relative L2 4.00e-05")
    assert message(suite, "frame 2").startswith("picture 2: relative L2 0.01")


def test_a_cell_that_passes_has_no_case_that_fails() -> None:
    grown = [LatentError(unit=0, rel_l2=2e-5, tolerance=1e-5)]
    (suite,) = parsed(junit_xml(summary_of({"walk": msgspec.structs.replace(comparison(7e-7), growth=grown)})))
    assert cases(suite)["frame 0"] == "passed"


def test_a_cell_that_cannot_be_compared_and_one_that_did_not_run_are_errors() -> None:
    failure = CellFailure(
        name="walk_seed13", factors={"seed": "13"}, message="no room\n  found: none", traceback="Traceback"
    )
    root = parsed(junit_xml(summary_of({"photograph": UNFIT}, failures=[failure])))
    assert (root.get("failures"), root.get("errors")) == ("0", "2")
    unfit, failed = root
    assert {name for name, outcome in cases(unfit).items() if outcome != "skipped"} == {"verdict"}
    assert message(unfit, "verdict").startswith("input.noise differs\nINCOMPARABLE")
    assert cases(failed) == {"run": "error"}
    assert message(failed, "run") == "no room\nTraceback"


def test_a_rollout_that_was_taught_has_a_suite_of_its_own() -> None:
    forced = msgspec.structs.replace(comparison(0.02), rollout=TEACHER_FORCED)
    root = parsed(junit_xml(summary_of({"walk": comparison(7e-7)}, teacher_forced={"walk": forced})))
    assert [(suite.get("name"), suite.get("failures")) for suite in root] == [
        ("walk", "0"),
        ("walk (teacher-forced)", "2"),
    ]


def test_what_xml_cannot_hold_is_left_out_and_the_rest_is_escaped() -> None:
    name, text = "a<b>&\"'\x00", "\x1b[31mred\x1b[0m \ud800 \ufffe ]]> <tag>\n\ttab"
    failure = CellFailure(name=name, factors={"<f>": "\x07&"}, message=text)
    (suite,) = parsed(junit_xml(summary_of({}, failures=[failure])))
    assert suite.get("name") == "a<b>&\"'"
    assert message(suite, "run") == "[31mred[0m   ]]> <tag>\n[31mred[0m   ]]> <tag>\n\ttab"


def test_a_site_that_no_part_has_is_not_lost() -> None:
    diverged = comparison(0.02)
    foreign = [msgspec.structs.replace(rung, site="vision_tower.0") for rung in diverged.sites[1:]]
    other = msgspec.structs.replace(diverged, sites=foreign, failures=[])
    (suite,) = parsed(junit_xml(summary_of({"walk": other})))
    assert cases(suite)["other sites"] == "failure"


@pytest.fixture(scope="module")
def real(tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics) -> dict[str, Comparison]:
    """The candidate, and one whose block 1 is louder, against the reference."""
    judgement = Judgement(fixed_tolerance(FAMILY, "fp32"))
    names = {"walk": "candidate", "louder": f"{implementations.__name__}:Louder"}
    loaded = {cell: Side(name, registry.load(name, tiny, fp32_on_cpu)) for cell, name in names.items()}
    return {
        cell: lockstep(Side("eager", registry.load("eager", tiny, fp32_on_cpu)), side, tiny, tiny_scenario, judgement)
        for cell, side in loaded.items()
    }


def test_a_real_run_fails_where_its_comparison_does(real: dict[str, Comparison]) -> None:
    walk, louder = parsed(junit_xml(summary_of(real)))
    assert set(cases(walk).values()) == {"passed", "skipped"}
    assert [part for part, outcome in cases(walk).items() if outcome == "skipped"] == [
        "input.image",
        "encoder",
        "image latent",
    ]
    failing = [part for part, outcome in cases(louder).items() if outcome == "failure"]
    assert failing[:2] == ["verdict", "mlp"]
    assert message(louder, "mlp").startswith(f"{real['louder'].first}\n")
