"""The queries of a table of sites, on a small model that is none of ours."""

import subprocess
import sys

import pytest

from waypoint_parity.harness.run.keys import At, Key
from waypoint_parity.harness.run.sites import Kind, SiteRow, SiteTable, kind_of

STEPS = ("denoise", "refine")
TABLE = SiteTable(
    [
        SiteRow(name="input.tokens", phases=("prepare",), part="tokens", kind=Kind.INPUT, accepted_as=("text",)),
        SiteRow(name="input.noise", phases=STEPS, part="noise", kind=Kind.INPUT, once=True, accepted_as=("noise",)),
        SiteRow(name="embed", phases=STEPS, part="embedding", reads=("input.noise",)),
        SiteRow(name="layers.0", phases=STEPS, part="first layer", reads=("embed",), branched=True),
        SiteRow(name="layers.1", phases=STEPS, part="layers", reads=("layers.0",), branched=True),
        SiteRow(name="layers.1.seen", phases=STEPS, part="memory", kind=Kind.MASK, optional=True),
        SiteRow(name="latent", phases=("denoise",), part="sampler", kind=Kind.LATENT, reads=("layers.1",)),
        SiteRow(
            name="latent",
            phases=("refine",),
            part="refiner",
            reads=("layers.1", "memory"),
            around=("input.noise",),
            accepted_as=("noise",),
        ),
        SiteRow(
            name="memory", phases=("write",), part="memory", kind=Kind.CACHE, carries=("layers",), takes_final=True
        ),
        SiteRow(name="pictures", phases=("decode",), part="decoder", kind=Kind.PICTURE, reads=("latent",)),
        SiteRow(name="sound", phases=("decode",), part="vocoder", kind=Kind.SOUND, reads=("latent",)),
    ]
)


def shown(phase: str, step: int = 0, branches: tuple[str, ...] = ("",)) -> list[tuple[str, str]]:
    return [(row.name, branch) for row, branch in TABLE.shown(phase, step, branches)]


@pytest.mark.parametrize(
    "row",
    [
        SiteRow(name="layers.0@with", phases=STEPS, part="layers"),
        SiteRow(name="layers/0", phases=STEPS, part="layers"),
        SiteRow(name="layers", phases=("denoise2",), part="layers"),
        SiteRow(name="layers", phases=("",), part="layers"),
        SiteRow(name="tempo", phases=STEPS, part="tempo", kind=Kind.INPUT),
        SiteRow(name="input.tempo", phases=STEPS, part="tempo"),
        SiteRow(name="film", phases=("decode",), part="decoder", kind=Kind.PICTURE),
    ],
    ids=lambda row: f"{row.name} in {row.phases[0]}",
)
def test_a_row_that_would_hide_something_is_refused(row: SiteRow) -> None:
    with pytest.raises(ValueError, match=r"site|phase"):
        SiteTable([*TABLE.rows, row])


def test_a_site_has_a_row_in_each_phase_that_shows_it() -> None:
    assert [getattr(TABLE.of("latent", phase), "part", None) for phase in ("denoise", "refine", "decode", None)] == [
        "sampler",
        "refiner",
        None,
        "sampler",
    ]
    assert TABLE.of("nowhere") is None


def test_a_number_beyond_the_table_stands_for_its_last_one() -> None:
    """The first layer is often made otherwise: a table of two layers knows thirty."""
    row = TABLE.of("layers.29")
    assert row is not None
    assert row.part == "layers"
    assert TABLE.is_mask("layers.29.seen")
    assert TABLE.is_optional("layers.29.seen")
    assert kind_of("layers.29.seen") == "layers.*.seen"


@pytest.mark.parametrize(
    ("site", "kind"),
    [
        ("input.tokens", Kind.INPUT),
        ("layers.0", Kind.ACTIVATION),
        ("layers.1.seen", Kind.MASK),
        ("latent", Kind.LATENT),
        ("memory", Kind.CACHE),
        ("pictures", Kind.PICTURE),
        ("sound", Kind.SOUND),
        ("somebody.elses", Kind.ACTIVATION),
        ("input.somebody_elses", Kind.INPUT),
    ],
)
def test_every_site_is_of_a_kind_known_or_not(site: str, kind: Kind) -> None:
    assert TABLE.kind(site) is kind
    assert TABLE.is_mask(site) is (kind is Kind.MASK)


def test_a_site_may_be_of_another_kind_in_another_phase() -> None:
    assert [TABLE.kind("latent", phase) for phase in ("denoise", "refine", "decode")] == [
        Kind.LATENT,
        Kind.ACTIVATION,
        Kind.LATENT,
    ]


def test_what_is_not_known_is_not_optional() -> None:
    assert [TABLE.is_optional(site) for site in ("layers.1.seen", "memory", "nowhere")] == [True, False, False]


def test_sites_of_a_kind_are_named_once() -> None:
    assert TABLE.sites(Kind.PICTURE) == ["pictures"]
    assert TABLE.sites(Kind.ACTIVATION) == ["embed", "layers.0", "layers.1", "latent"]


def test_a_pass_shows_its_sites_in_order_and_those_of_a_first_step_there_alone() -> None:
    assert shown("denoise") == [
        (name, "") for name in ("input.noise", "embed", "layers.0", "layers.1", "layers.1.seen", "latent")
    ]
    assert [name for name, _ in shown("denoise", 1)] == ["embed", "layers.0", "layers.1", "layers.1.seen", "latent"]
    assert shown("nothing") == []


def test_every_branch_shows_what_is_branched_and_all_together_what_is_not() -> None:
    assert shown("denoise", 1, ("cond", "uncond")) == [
        ("embed", ""),
        ("layers.0", "cond"),
        ("layers.0", "uncond"),
        ("layers.1", "cond"),
        ("layers.1", "uncond"),
        ("layers.1.seen", ""),
        ("latent", ""),
    ]


SESSION = [At(0, "prepare", 0), *(At(0, phase, step) for phase in STEPS for step in range(2)), At(0, "write", 0)]


def test_the_steps_that_show_a_site_are_those_of_its_part() -> None:
    assert TABLE.showing(Key(0, "denoise", 1, "latent"), SESSION) == [At(0, "denoise", 0), At(0, "denoise", 1)]
    assert TABLE.showing(Key(0, "refine", 1, "latent"), SESSION) == [At(0, "refine", 0), At(0, "refine", 1)]
    assert TABLE.showing(Key(0, "denoise", 0, "input.noise"), SESSION) == [At(0, "denoise", 0), At(0, "refine", 0)]
    assert TABLE.showing(Key(0, "refine", 0, "layers.7"), SESSION) == SESSION[1:5]


def test_a_session_of_several_passes_a_step_counts_each_step_once() -> None:
    twice = [at for at in SESSION for _ in range(2)]
    assert TABLE.showing(Key(0, "denoise", 0, "layers.1"), twice) == SESSION[1:5]


def test_a_site_reads_what_it_reads_in_any_phase() -> None:
    assert TABLE.reads("latent") == ("layers.1", "memory")
    assert TABLE.around("latent") == ("input.noise",)
    assert TABLE.reads("nowhere") == TABLE.around("nowhere") == ()


def test_an_error_belongs_to_the_part_of_its_site_in_that_phase() -> None:
    assert TABLE.part_of(Key(0, "denoise", 0, "latent")) == "sampler"
    assert TABLE.part_of(Key(0, "refine", 0, "latent")) == "refiner"
    assert TABLE.part_of(Key(0, "somewhere", 0, "sound")) == "vocoder"
    assert TABLE.parts_at(["latent", "layers.5", "nowhere"]) == {"sampler", "refiner", "layers"}
    with pytest.raises(ValueError, match="nowhere in a denoise pass is no site of any part"):
        TABLE.part_of(Key(0, "denoise", 0, "nowhere"))


def test_a_part_is_seen_at_its_own_sites_in_their_phase() -> None:
    latent = Key(0, "refine", 0, "latent")
    assert TABLE.shows(latent, "refiner")
    assert not TABLE.shows(latent, "sampler")
    assert TABLE.shows(latent._replace(site="layers.9"), "layers")
    assert not TABLE.shows(latent._replace(site="nowhere"), "refiner")


def test_a_pass_that_one_side_only_has_is_an_error_of_the_site_that_stands_for_it_else_of_its_last() -> None:
    assert [TABLE.entry(phase) for phase in ("denoise", "prepare", "decode", "nothing")] == [
        "latent",
        "input.tokens",
        "sound",
        None,
    ]
    marked = SiteTable([*TABLE.rows, SiteRow(name="step", phases=(), part="sampler", stands_for=("denoise", "write"))])
    assert [marked.entry(phase) for phase in ("denoise", "write", "decode")] == ["step", "step", "sound"]


def test_the_phases_that_lead_to_a_final_latent_are_those_that_show_one() -> None:
    assert TABLE.sampling == {"denoise"}


def test_a_site_says_what_is_exchanged_with_it_and_whether_it_takes_the_final_latent() -> None:
    memory = Key(0, "write", 0, "memory")
    assert TABLE.carries(memory, "layers")
    assert not TABLE.carries(memory, "memory")
    assert not TABLE.carries(memory._replace(site="nowhere"), "layers")
    assert TABLE.takes_final(memory)
    assert not TABLE.takes_final(memory._replace(site="latent", phase="denoise"))


def test_names_that_accept_a_difference_stand_for_sites() -> None:
    assert TABLE.acceptable == ("text", "noise")
    assert TABLE.accepted("noise") == {"input.noise", "latent"}
    assert TABLE.accepted("nothing") == frozenset()


@pytest.mark.parametrize("module", ["run.keys", "run.sites", "run.family", "record.selection", "judge.diff"])
def test_torch_is_not_needed_where_only_records_are_read(module: str) -> None:
    check = f"import sys, waypoint_parity.harness.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
