"""Parity of one component by itself: each call judged alone, on inputs that were recorded from the reference.

The reference runs its session with the candidate's values in the place of its own at the component's sites, and with
the recorded values at the component's boundary (see harness.judge.precision). So nothing is inherited from an earlier
call, nor from another component.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import msgspec
import torch
from torch import Tensor

from waypoint_parity.harness.compare.exact.shadowed import Shadowed
from waypoint_parity.harness.compare.tensor_error import CLOSE, EXACTLY, tensor_error
from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.judge.comparison import Verdict
from waypoint_parity.harness.judge.judgement import Judgement
from waypoint_parity.harness.judge.precision import OwnError, precision_run
from waypoint_parity.harness.judge.table import finite
from waypoint_parity.harness.run.component import ComponentAlone, RecordedCalls
from waypoint_parity.harness.run.keys import Key, is_input, site_name
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import expected_keys

COMPONENT_SCHEMA = "waypoint-parity/component/1"


class SiteOfComponent(msgspec.Struct, frozen=True, kw_only=True):
    """A site in one phase, over all calls.

    `excess`: the largest error over its bound, None where that is infinite. `error` and `bound`: relative L2 distances
    at that observation, from what the same inputs should have given; None of masks, whole numbers and pictures.
    `atol`: the smallest with which torch.testing.assert_close passes beside its own rtol for the dtype; `rtol`: the
    smallest beside its own atol. 0 where its own are enough, None where no number is.
    """

    site: str
    phase: str
    verdict: Verdict
    observations: int
    at: str
    excess: float | None
    error: float | None
    bound: float | None
    atol: float | None
    rtol: float | None


class ComponentParity(msgspec.Struct, frozen=True, kw_only=True):
    """A component of the candidate, held against the reference's on the same inputs. True where parity holds.

    `sites` are in the order of execution; `missing` were not shown by the candidate, or not in every call, and
    `unlike` by the candidate alone, or in another shape. `unjudged` says what could not be judged, and why.
    """

    schema: str
    component: str
    reference: str
    candidate: str
    scenario: str
    calls: int
    verdict: Verdict
    sites: list[SiteOfComponent]
    missing: list[str]
    unlike: list[str]
    unjudged: list[str]

    @property
    def first(self) -> SiteOfComponent | None:
        """The first site, in the order of execution, that is wrong by itself."""
        return next((each for each in self.sites if not each.verdict.passes), None)

    def __bool__(self) -> bool:
        return self.verdict.passes


def component_parity(
    names: tuple[str, str],
    reference: Shadowed,
    candidate: ComponentAlone,
    recorded: RecordedCalls,
    scenario: Scenario,
    judgement: Judgement,
) -> ComponentParity:
    """Judge the calls that were recorded; `names` of reference and candidate, the reference loaded with LANES.

    Raises UserError for a reference that does not go on with what is put at the component's boundary.
    """
    close = _Closeness()
    measured = precision_run(
        reference,
        candidate,
        reference.checkpoint,
        scenario,
        range(scenario.units),
        everywhere=False,
        least=judgement.least,
        alone=recorded,
        told=close.take,
    )

    _check_boundary(names[0], recorded, measured.refused)

    def excess(one: OwnError) -> float:
        """The error over its bound; over the noise floor or tolerance where no exact value is known."""
        if one.lost is None:
            return measured.excess[one.key]
        ratio = close.apart[one.key] / judgement.bounds.of(one.key).rel_l2
        return math.inf if math.isnan(ratio) else ratio

    grouped: dict[tuple[str, str], dict[Key, tuple[OwnError, float]]] = defaultdict(dict)
    for one in measured.measured:
        grouped[site_name(one.key.site, one.key.branch), one.key.phase][one.key] = one, excess(one)
    sites = [_site(name, phase, group, close) for (name, phase), group in grouped.items()]
    missing = _missing(candidate, recorded, measured.measured, scenario, reference, judgement.allowed_missing)
    verdicts = [each.verdict for each in sites] + [Verdict.DIVERGED for _ in measured.alone[:1]]
    verdicts += [Verdict.MISSING] if missing or not sites else []
    return ComponentParity(
        schema=COMPONENT_SCHEMA,
        component=recorded.component,
        reference=names[0],
        candidate=names[1],
        scenario=scenario.name,
        calls=len(recorded.calls),
        verdict=max(verdicts, key=list(Verdict).index),
        sites=sites,
        missing=missing,
        unlike=[str(key) for key in measured.alone],
        unjudged=measured.precision.unjudged,
    )


def _check_boundary(name: str, recorded: RecordedCalls, refused: Sequence[str]) -> None:
    """Raise UserError where a reference went on with values of its own at the component's boundary."""
    stubborn = sorted({key.site for key in recorded.given if not is_input(key.site)}.intersection(refused))
    if stubborn:
        raise UserError(
            f"{name}: cannot be held beside one component",
            found=f"sites that take no value: {listed(stubborn)}",
            expected="a reference that goes on with the recorded value there",
            do="give those sites a restore, or take another --reference",
        )


class _Closeness:
    """What the candidate shows, held against what the reference computes of the same inputs, rounding and all."""

    def __init__(self) -> None:
        self.needed: dict[Key, tuple[float, float]] = {}
        self.apart: dict[Key, float] = {}
        self.equal: set[Key] = set()

    def take(self, key: Key, actual: Tensor, expected: Tensor) -> None:
        """Take both values of one observation."""
        self.needed[key] = would_pass(actual, expected)
        if expected.is_floating_point():
            self.apart[key] = tensor_error(actual, expected).rel_l2
        if torch.equal(actual.to(expected), expected):
            self.equal.add(key)


def _site(name: str, phase: str, of: Mapping[Key, tuple[OwnError, float]], close: _Closeness) -> SiteOfComponent:
    worst, excess = max(of.values(), key=lambda each: each[1])
    atol, rtol = (max(close.needed[key][part] for key in of) for part in (0, 1))
    same = close.equal.issuperset(of)
    return SiteOfComponent(
        site=name,
        phase=phase,
        verdict=Verdict.DIVERGED if excess > 1 else Verdict.IDENTICAL if same else Verdict.WITHIN_NOISE,
        observations=len(of),
        at=str(worst.key),
        excess=finite(excess),
        error=None if worst.equal is not None else finite(worst.error),
        bound=None if worst.equal is not None else worst.bound,
        atol=finite(atol),
        rtol=finite(rtol),
    )


def _missing(
    candidate: ComponentAlone,
    recorded: RecordedCalls,
    measured: Sequence[OwnError],
    scenario: Scenario,
    reference: Shadowed,
    allowed: Sequence[str],
) -> list[str]:
    """The component's sites that were not compared in every call, those that are allowed to be left out."""
    shown, compared = candidate.sites(), {one.key for one in measured}
    expected = expected_keys(scenario, reference.checkpoint, optional=shown)
    named = dict.fromkeys(key.site for key in expected if key.site in recorded.sites and key not in compared)
    # A site that an adapter itself names is never allowed to be missing.
    return [
        site
        for site in named
        if (site in shown or not any(fnmatchcase(site, glob) for glob in allowed)) and site in reference.adapter.sites()
    ]


def would_pass(actual: Tensor, expected: Tensor) -> tuple[float, float]:
    """(atol, rtol) that torch.testing.assert_close needs, each beside its own default of the other; 0 of equal ones."""
    rtol, atol = CLOSE.get(expected.dtype, EXACTLY)
    a, e = actual.to(expected.device).double(), expected.double()
    unequal = (a != e) & ~(a.isnan() & e.isnan())
    if not bool(unequal.any()):
        return 0.0, 0.0
    apart, size = (a - e).abs()[unequal], e.abs()[unequal]
    if not bool(apart.isfinite().all() & size.isfinite().all()):
        return math.inf, math.inf
    over = (apart - atol).clamp(min=0.0)
    # An rtol helps nowhere where nothing is expected.
    ratio = torch.where(over > 0, over / size, 0.0)
    return max(float((apart - rtol * size).max()), 0.0), float(ratio.max())
