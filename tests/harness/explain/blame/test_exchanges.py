import pytest

from tests.harness.explain.blame.candidates import TABLE
from tests.harness.observations import FAMILY
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.explain.blame.exchanges import exchange_called, exchange_of, exchanged
from waypoint_parity.harness.run.keys import Key

SITES = frozenset(row.name for row in TABLE.rows)


def key(site: str) -> Key:
    return Key(0, "denoise", 0, site)


def taken(name: str) -> set[str]:
    """The sites that are exchanged in a denoise pass under a name."""
    exchange = exchange_called(name, SITES, FAMILY)
    assert exchange.name == name
    return {site for site in SITES if exchange.takes(key(site), TABLE)}


def test_a_part_is_called_by_its_name() -> None:
    assert taken("velocity") == {"velocity"}
    assert taken("mlp") == {f"transformer.blocks.{layer}{part}" for layer in range(3) for part in (".mlp", "")}
    assert taken("rotation") == {f"transformer.blocks.{layer}.attn.{qk}_rope" for layer in range(3) for qk in "qk"}


def test_a_group_is_all_its_parts() -> None:
    assert taken("control") == {"ctrl_emb", *(f"transformer.blocks.{layer}.ctrl_mlpfusion" for layer in (0, 2))}
    assert taken("head") >= {"patchify", "out_norm", "velocity"}


def test_a_name_that_a_group_and_a_part_share_is_the_group_s() -> None:
    assert taken("attention") >= taken("projections") | {"transformer.blocks.0.attn"}


def test_a_block_is_its_parts_and_its_ring() -> None:
    block = taken("block 1")
    assert block == {site for site in SITES if site.startswith(("transformer.blocks.1", "kv_cache.layers.1"))}
    assert {"transformer.blocks.1", "transformer.blocks.1.attn.q_proj", "kv_cache.layers.1.kv"} <= block


def test_a_glob_is_the_sites_it_matches() -> None:
    assert taken("decoder.residuals.*") == {site for site in SITES if site.startswith("decoder.residuals.")}
    assert taken("transformer.blocks.?.attn") == {f"transformer.blocks.{layer}.attn" for layer in range(3)}


@pytest.mark.parametrize("name", ["velocities", "block 7", "block", "transformer.blocks.9.*", ""])
def test_a_name_that_is_none_is_told_which_there_are(name: str) -> None:
    with pytest.raises(UserError) as refused:
        exchange_called(name, SITES, FAMILY)
    what, found, expected, do = str(refused.value).splitlines()
    assert what.startswith(f"{name}: nothing that can be exchanged")
    assert name in found
    assert all(word in expected for word in ("noise conditioner", "autoencoder", "block 3", "glob"))
    assert "--exchange" in do


def test_a_part_of_some_blocks_is_those_blocks_alone_and_named_by_them() -> None:
    assert exchange_of("mlp", None).name == "mlp"
    assert exchange_of("mlp", [1]).name == "mlp of block 1"
    some = exchange_of("mlp", [2, 0])
    assert some.name == "mlp of blocks 0, 2"
    assert [layer for layer in range(3) if some.takes(key(f"transformer.blocks.{layer}.mlp"), TABLE)] == [0, 2]


def test_what_a_part_acts_through_is_exchanged_with_it() -> None:
    cache = exchange_of("cache", [1])
    assert cache.takes(key("transformer.blocks.1.attn"), TABLE)
    assert not cache.takes(key("transformer.blocks.0.attn"), TABLE)
    assert exchange_of("input.schedule", None).takes(Key(0, "cache", 0, "patchify"), TABLE)


def test_several_exchanges_take_what_any_of_them_takes() -> None:
    both = [exchange_called(name, SITES, FAMILY) for name in ("velocity", "block 0")]
    assert exchanged(key("velocity"), both, TABLE)
    assert exchanged(key("transformer.blocks.0.mlp"), both, TABLE)
    assert not exchanged(key("out_norm"), both, TABLE)
    assert not exchanged(key("velocity"), [], TABLE)


def test_stages_of_the_autoencoder_are_no_blocks() -> None:
    assert not any(site.startswith(("encoder.", "decoder.")) for site in taken("block 1"))
