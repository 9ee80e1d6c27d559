"""The sigma trajectory: the share of the latent's energy in the high band, of both sides, step by step."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.harness.observations import FAMILY, manifest, normal
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.explain.investigation.latents import final_latents, read_latents
from waypoint_parity.harness.explain.investigation.trajectory import high_share, trajectory
from waypoint_parity.harness.record.records import MANIFEST_NAME, TENSORS_NAME, to_json
from waypoint_parity.harness.run.keys import Key, Order

# Steps that nobody planned come in the order of their numbers.
NO_PLAN = Order([])


def dump(folder: Path, sigmas: list[float], **tensors: Tensor) -> Path:
    """A finished dump that keeps `tensors`, whose names have a double underscore for every slash."""
    folder.mkdir()
    (folder / MANIFEST_NAME).write_bytes(to_json(manifest(sigmas=sigmas, complete=True)))
    if tensors:
        save_file({name.replace("__", "/"): tensor.clone() for name, tensor in tensors.items()}, folder / TENSORS_NAME)
    return folder


def wave(cycles_down: float, cycles_right: float, size: int = 32) -> Tensor:
    """A wave of so many cycles over [1,1,1,size,size]."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.cos(2 * torch.pi * (cycles_down * y + cycles_right * x) / size)[None, None, None]


def test_a_latent_of_several_frames_is_taken_frame_by_frame() -> None:
    assert high_share(torch.cat([wave(2, 0), wave(12, 0)])[:, 0]) == pytest.approx(0.5)
    assert high_share(wave(12, 0)[0, 0, 0]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("down", "right", "share"),
    # Half of Nyquist are 8 cycles of 32 pixels, in any direction.
    [(0, 0, 0.0), (8, 0, 0.0), (9, 0, 1.0), (0, 9, 1.0), (5, 5, 0.0), (6, 6, 1.0), (16, 16, 1.0)],
)
def test_the_high_band_begins_at_half_of_nyquist(down: float, right: float, share: float) -> None:
    assert high_share(wave(down, right)) == pytest.approx(share, abs=1e-9)


def test_energies_add_up_over_channels_and_scale_does_not_count() -> None:
    both = torch.cat([wave(2, 0), wave(12, 0)], dim=2)
    assert high_share(both) == pytest.approx(0.5)
    assert high_share(7 * both) == pytest.approx(0.5)


@pytest.mark.parametrize("size", [8, 32, 64])
def test_white_noise_has_most_of_its_energy_there_at_any_size(size: int) -> None:
    assert high_share(normal(1, 1, 64, size, size)) == pytest.approx(0.8, abs=0.08)


def test_a_latent_of_zeros_or_without_numbers_has_no_share() -> None:
    assert high_share(torch.zeros(1, 1, 4, 8, 8)) is None
    assert high_share(torch.full((1, 1, 4, 8, 8), torch.nan)) is None
    assert high_share(normal(1, 1, 4, 8, 8).to(torch.bfloat16)) is not None


def test_every_step_of_both_sides_is_there_with_the_sigma_it_leads_to(tmp_path: Path) -> None:
    coarse, fine, sigmas = wave(1, 1), wave(16, 0), [1.0, 0.5, 0.0]
    names = ["u0__denoise0__latent", "u0__denoise1__latent", "u1__denoise0__latent", "u1__denoise1__latent"]
    reference = dump(tmp_path / "reference", sigmas, **dict.fromkeys(names, fine), u0__image0__latent=coarse[0])
    candidate = dump(tmp_path / "candidate", sigmas, **dict.fromkeys(names[:3], coarse))
    found = trajectory(reference, candidate, FAMILY, NO_PLAN)
    assert [(at.unit, at.step, at.sigma) for at in found] == [(0, 0, 0.5), (0, 1, 0.0), (1, 0, 0.5), (1, 1, 0.0)]
    assert [at.reference for at in found] == pytest.approx([1.0] * 4)
    assert [at.candidate for at in found[:3]] == pytest.approx([0.0] * 3, abs=1e-9)
    assert found[3].candidate is None


def test_a_step_beyond_the_schedule_leads_to_its_end(tmp_path: Path) -> None:
    sides = [
        dump(tmp_path / side, [1.0, 0.0], u0__denoise0__latent=wave(1, 0), u0__denoise1__latent=wave(1, 0))
        for side in ("reference", "candidate")
    ]
    assert [at.sigma for at in trajectory(*sides, FAMILY, NO_PLAN)] == [0.0, 0.0]


def test_dumps_without_tensors_have_no_trajectory(tmp_path: Path) -> None:
    sides = [dump(tmp_path / side, [1.0, 0.0]) for side in ("reference", "candidate")]
    assert trajectory(*sides, FAMILY, NO_PLAN) == []


def test_a_latent_without_rows_and_columns_has_no_trajectory(tmp_path: Path) -> None:
    sides = [dump(tmp_path / side, [1.0, 0.0], u0__denoise0__latent=normal(8)) for side in ("reference", "candidate")]
    assert trajectory(*sides, FAMILY, NO_PLAN) == []


def test_latents_of_a_dump_of_the_first_schema_are_read(tmp_path: Path) -> None:
    folder = dump(tmp_path / "dump", [1.0, 0.0], f3__denoise1__latent=wave(1, 0))
    assert list(read_latents(folder, FAMILY)) == [Key(3, "denoise", 1, "latent")]


def test_the_final_latent_is_that_of_a_units_last_step(tmp_path: Path) -> None:
    last, other = normal(1, 1, 4, 8, 8, seed=1), normal(1, 1, 4, 8, 8, seed=2)
    # Step 10 comes after step 9, whatever their names sort like.
    folder = dump(tmp_path / "dump", [1.0, 0.0], u0__denoise9__latent=other, u0__denoise10__latent=last)
    assert torch.equal(final_latents(read_latents(folder, FAMILY), "latent", NO_PLAN)[0], last)


def test_tensors_that_were_cut_short_are_refused_by_name(tmp_path: Path) -> None:
    folder = dump(tmp_path / "dump", [1.0, 0.0], u0__denoise0__latent=wave(1, 0))
    tensors = folder / TENSORS_NAME
    tensors.write_bytes(tensors.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"tensors\.safetensors: cannot be read"):
        read_latents(folder, FAMILY)
