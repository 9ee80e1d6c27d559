from pathlib import Path

import msgspec
import pytest
import torch

from tests.harness import rollouts
from tests.harness.observations import FAMILY, write_dump
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.draws import make_scenario
from waypoint_parity.harness.families.waypoint.rings.map import LEGEND, RingRow, ring_map, ring_tables
from waypoint_parity.harness.families.waypoint.scenario import IMAGE_SHAPE
from waypoint_parity.harness.judge.diff import open_dump, slot_faults
from waypoint_parity.harness.record.records import MANIFEST_NAME, read_manifest, to_json
from waypoint_parity.harness.record.selection import Selection
from waypoint_parity.harness.record.writer import DumpWriter, describe_run
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.registry import load
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import recording

IMPLEMENTATIONS = {
    "eager": "eager",
    "candidate": "candidate",
    "stale": f"{rollouts.__name__}:StaleOnce",
    "exchanged": f"{rollouts.__name__}:OtherSlot",
}

RINGS = Selection(sites=("kv_cache.*", "*.k_rope"))


@pytest.fixture(scope="module")
def seeded(tiny: Checkpoint) -> Scenario:
    """An image and three frames."""
    image = torch.zeros(IMAGE_SHAPE, dtype=torch.uint8)
    return make_scenario(tiny.geometry, name="seeded", units=3, seed=3, prompt_tokens=6, prompt_padding=2, image=image)


@pytest.fixture(scope="module")
def dumps(
    tiny: Checkpoint, seeded: Scenario, fp32_on_cpu: Numerics, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A dump of every implementation, with what tells of its rings."""
    folder = tmp_path_factory.mktemp("dumps")
    for role, name in IMPLEMENTATIONS.items():
        adapter = load(name, tiny, fp32_on_cpu)
        manifest = describe_run(name, adapter, fp32_on_cpu, tiny, seeded, selection=RINGS)
        with (
            DumpWriter(folder / role, manifest) as writer,
            recording(adapter.sites(), writer, RINGS) as recorder,
        ):
            run(adapter, seeded, tiny, recorder)
    return {role: folder / role for role in IMPLEMENTATIONS}


LOCAL_MAP = """\
local layer 1: 2 slots for every frame
  frame           0       1   tail  evicted
  image      *image       .  image
      0       image      *0      0
      1  *1 (image)       0      1    image
      2           1  *2 (0)      2        0
"""
GLOBAL_MAP = """\
global layers 0, 2: 2 slots for one frame in 2
  frame       0   1   tail  evicted
  image  *image   .  image
      0   image   .      0
      1   image  *1      1
      2   image   1      2
"""


@pytest.mark.parametrize("role", ["eager", "candidate"])
def test_the_map_has_a_row_for_every_frame_and_a_column_for_every_slot(dumps: dict[str, Path], role: str) -> None:
    assert ring_map(dumps[role]) == [*GLOBAL_MAP.splitlines(), "", *LOCAL_MAP.splitlines(), "", LEGEND]


def test_the_map_of_one_layer_is_that_layers_alone(dumps: dict[str, Path]) -> None:
    assert ring_map(dumps["eager"], 1) == [*LOCAL_MAP.splitlines(), "", LEGEND]


def test_the_tables_have_the_map_as_values(dumps: dict[str, Path]) -> None:
    of_global, of_local = ring_tables(dumps["eager"])
    assert (of_global.layers, of_local.layers) == ([0, 2], [1])
    assert of_local.rows[2] == RingRow("1", ("*1 (image)", "0", "1"), "image")
    assert of_local.geometry.slots == len(of_local.rows[0].cells) - 1 == 2
    assert str(of_global) == "global layers 0, 2: 2 slots for one frame in 2"


def test_a_slot_that_was_not_hidden_is_not_marked_so(dumps: dict[str, Path]) -> None:
    row = next(line for line in ring_map(dumps["stale"], 1) if line.startswith("      1"))
    assert row.split() == ["1", "*1", "0", "1", "image"]


def test_a_layer_that_is_none_is_refused(dumps: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"no such layer[\s\S]*0 to 2"):
        ring_map(dumps["eager"], 3)


def test_a_dump_that_does_not_tell_its_rings_is_refused(dumps: dict[str, Path], tmp_path: Path) -> None:
    latents = write_dump(tmp_path / "latents", [])
    with pytest.raises(UserError, match=r"does not tell[\s\S]*no `caches` in the manifest"):
        ring_map(latents)
    manifest = msgspec.structs.replace(read_manifest(latents), caches=read_manifest(dumps["eager"]).caches)
    (latents / MANIFEST_NAME).write_bytes(to_json(manifest))
    with pytest.raises(UserError, match=r"does not tell[\s\S]*no record that tells"):
        ring_map(latents)


@pytest.mark.parametrize(
    ("role", "message"),
    [
        # The image is clock 0, so generated frame 1 is the first to replace a slot of the local ring.
        ("stale", "local layer 1, frame 1: slot 0 holds the image, expected hidden"),
        ("exchanged", "local layer 1, frame 0: slot 0 holds frame 0, expected the image"),
    ],
)
def test_two_dumps_tell_the_first_wrong_slot(dumps: dict[str, Path], role: str, message: str) -> None:
    reference, wrong, right = (open_dump(dumps[name]) for name in ("eager", role, "candidate"))
    assert slot_faults(reference, wrong, FAMILY)[0].message == message
    assert slot_faults(reference, right, FAMILY) == []
