from waypoint_parity.harness.checkpoint.inspection import Rename, proposed, rules

SHAPE = (4, 4)


def pairs(missing: dict[str, tuple[int, ...]], extra: dict[str, tuple[int, ...]]) -> list[tuple[str, str]]:
    return [(rename.expected, rename.found) for rename in proposed(missing, extra)]


def test_a_similar_name_of_the_same_shape_is_proposed() -> None:
    expected, found = "transformer.blocks.3.mlp.fc1.weight", "transformer.blocks.3.mlp.fc_in.weight"
    assert pairs({expected: SHAPE}, {found: SHAPE}) == [(expected, found)]


def test_another_shape_or_block_or_name_is_not() -> None:
    missing = {"transformer.blocks.3.mlp.fc1.weight": SHAPE}
    assert pairs(missing, {"transformer.blocks.3.mlp.fc_in.weight": (4, 5)}) == []
    assert pairs(missing, {"transformer.blocks.4.mlp.fc1.weight": SHAPE}) == []
    assert pairs(missing, {"vision.tower.3.pos_embed": SHAPE}) == []


def test_each_key_is_paired_once_with_the_most_similar() -> None:
    missing = {f"blocks.0.attn.{name}_proj.weight": SHAPE for name in "qkv"}
    extra = {f"blocks.0.attn.to_{name}.weight": SHAPE for name in "qkvg"}
    assert pairs(missing, extra) == [(f"blocks.0.attn.{n}_proj.weight", f"blocks.0.attn.to_{n}.weight") for n in "kqv"]


def test_a_prefix_that_every_key_lacks_is_one_rule() -> None:
    keys = [f"transformer.blocks.{i}.mlp.{name}.weight" for i in range(12) for name in ("fc1", "fc2")]
    renames = proposed(dict.fromkeys(keys, SHAPE), {key.removeprefix("transformer."): SHAPE for key in keys})
    assert [rename.found for rename in renames] == [rename.expected.removeprefix("transformer.") for rename in renames]
    assert rules(renames) == [("transformer.blocks", "blocks", 24)]


def test_a_rule_is_what_changes_and_the_frequent_one_comes_first() -> None:
    renames = [Rename(f"blocks.{i}.mlp.fc1.weight", f"blocks.{i}.mlp.fc_in.weight") for i in range(2)]
    renames.insert(0, Rename("out_norm.fc.weight", "out_norm.linear.weight"))
    assert rules(renames) == [("fc1", "fc_in", 2), ("fc", "linear", 1)]
