import pytest
import torch

from tests.harness.observations import normal
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.families.waypoint.rings.side import ALL, EMPTY, MIXED, NONE
from waypoint_parity.harness.families.waypoint.rings.slots import slot_marks
from waypoint_parity.harness.record.records import Record, read_records
from waypoint_parity.harness.record.writer import DumpWriter, describe_run
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.digest import fast_digest
from waypoint_parity.harness.run.registry import load
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import recording

KV, WRITTEN, VISIBLE = (f"kv_cache.layers.0.{part}" for part in ("kv", "written", "visible"))


def test_of_a_cache_every_slot_is_told_by_the_digest_of_its_keys() -> None:
    kv = normal(2, 1, 3, 8, 16)
    kv[:, :, :, 2:6] = 0
    first, last = (fast_digest(kv[:1, 0, :, rows].contiguous()) for rows in (slice(2), slice(6, 8)))
    assert slot_marks(KV, kv, 2) == [first, EMPTY, EMPTY, last]
    kv[1] += 1
    assert slot_marks(KV, kv, 2) == [first, EMPTY, EMPTY, last]


@pytest.mark.parametrize("site", [WRITTEN, VISIBLE])
def test_of_a_mask_every_slot_is_told_by_whether_all_none_or_some_of_its_tokens_are(site: str) -> None:
    assert slot_marks(site, torch.tensor([True, True, False, False, False, True]), 2) == [ALL, NONE, MIXED]


@pytest.mark.parametrize(
    ("site", "shape"), [(KV, (2, 1, 3, 7, 16)), (KV, (7, 16)), (WRITTEN, (7,)), (WRITTEN, (2, 2)), ("latent", (8,))]
)
def test_what_is_no_ring_has_no_slots(site: str, shape: tuple[int, ...]) -> None:
    assert slot_marks(site, torch.ones(shape), 2) is None


def test_an_accelerators_tensor_is_left_where_it_is() -> None:
    assert slot_marks(WRITTEN, torch.ones(8, device="meta"), 2) is None


@pytest.mark.parametrize("implementation", ["eager", "candidate"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_slot_has_the_digest_of_the_keys_that_its_frame_has_rotated(
    implementation: str,
    dtype: torch.dtype,
    tiny: Checkpoint,
    tiny_scenario: Scenario,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    numerics, folder = Numerics(dtype, torch.device("cpu")), tmp_path_factory.mktemp("dump")
    adapter = load(implementation, tiny, numerics)
    writer = DumpWriter(folder, describe_run(implementation, adapter, numerics, tiny, tiny_scenario))
    with writer, recording(adapter.sites(), writer) as recorder:
        run(adapter, tiny_scenario, tiny, recorder)
    records: dict[tuple[str, str, int], Record] = {
        (seen.site, seen.phase, seen.unit): seen for seen in read_records(folder)
    }
    for layer, slots in enumerate([(0, EMPTY, EMPTY, EMPTY, 1), (0, 1, 1), (0, EMPTY, EMPTY, EMPTY, 1)]):
        rotated = [records[f"transformer.blocks.{layer}.attn.k_rope", "cache", frame].digest for frame in range(2)]
        expected = [slot if isinstance(slot, str) else rotated[slot] for slot in slots]
        assert records[f"kv_cache.layers.{layer}.kv", "cache", 1].slots == expected
    assert records["kv_cache.layers.1.visible", "cache", 1].slots == [ALL, NONE, ALL]
    assert records["kv_cache.layers.1.written", "cache", 1].slots == [ALL, ALL, ALL]
    assert records["latent", "denoise", 1].slots is None
