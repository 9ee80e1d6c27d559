from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.cli.conftest import refused, run
from tests.harness import implementations
from waypoint_parity.harness.judge.growth import LANES
from waypoint_parity.harness.record.observer import NO_EFFECT
from waypoint_parity.harness.record.records import TENSORS_NAME, read_manifest, read_records
from waypoint_parity.harness.record.selection import Selection
from waypoint_parity.harness.run.keys import is_input

Arguments = Callable[..., tuple[object, ...]]
SHY = f"{implementations.__name__}:Shy"


def test_sites_frames_and_steps_are_chosen(dump: Arguments, tmp_path: Path) -> None:
    outcome = run(*dump("eager", "--sites", "latent", "*.attn", "--frames", 1, "--steps", 0))
    assert outcome.code == 0, outcome
    manifest, keys = read_manifest(tmp_path / "out"), [record.key for record in read_records(tmp_path / "out")]
    assert manifest.selection == Selection(sites=("latent", "*.attn"), units=(1,), steps=(0,), stepped=("denoise",))
    assert manifest.observed == manifest.expected == len(keys)
    chosen = {key.site for key in keys if not is_input(key.site)}
    assert chosen == {"latent"} | {f"transformer.blocks.{block}.attn" for block in range(len(chosen) - 1)}


def test_every_other_frame_is_kept(dump: Arguments, tmp_path: Path) -> None:
    assert run(*dump("eager", "--every", 2)).code == 0
    assert [path.name for path in (tmp_path / "out" / "frames").iterdir()] == ["000000.png"]


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ([], None),
        (["--tensors"], {"latent", "velocity", "input.sigma"}),
        (["--tensors", "l*", "velocity"], {"latent", "velocity"}),
    ],
)
def test_full_tensors_are_kept_of_recorded_sites(
    dump: Arguments, tmp_path: Path, asked: list[str], kept: set[str] | None
) -> None:
    assert run(*dump("eager", "--sites", "latent", "velocity", *asked)).code == 0
    file = tmp_path / "out" / TENSORS_NAME
    assert file.exists() is (kept is not None)
    if kept is not None:
        sites = {name.split("/")[-1] for name in load_file(file)}
        assert {site for site in sites if not is_input(site) or site == "input.sigma"} == kept


def test_exact_values_are_recorded_when_asked_for(dump: Arguments, tmp_path: Path) -> None:
    outcome = run(*dump("candidate", "--exact"))
    assert outcome.code == 0, outcome
    followed = read_manifest(tmp_path / "out").followed
    assert followed is not None
    assert (followed.lanes, followed.unfollowed) == (LANES, [])
    exact = [record.exact for record in read_records(tmp_path / "out") if record.exact is not None]
    assert len(exact) == followed.observations > 100
    assert f"{len(exact)} with exact values" in outcome.out
    assert all(0 <= each.distance < 1e-4 for each in exact)


def test_a_selection_of_nothing_is_refused(dump: Arguments) -> None:
    assert refused(*dump("eager", "--every", 0))["what"] == "nothing is selected"


def test_an_observer_effect_is_refused_or_owned_up_to(dump: Arguments, tmp_path: Path) -> None:
    assert refused(*dump(SHY))["what"] == "recording changes what the implementation computes"
    assert run(*dump(SHY, "--allow-observer-effect")).code == 0
    assert "elements differ" in str(read_manifest(tmp_path / "out").observer)
    assert run(*dump()).code == 0
    assert read_manifest(tmp_path / "out").observer == NO_EFFECT
