from waypoint_parity.harness.checkpoint.weights import compared


def test_a_mismatch_names_what_is_missing_extra_and_misshapen() -> None:
    mismatch = compared({"a": (1,), "c": (2, 3), "d": ()}, {"a": (1,), "b": (4,), "c": (3, 2)})
    assert mismatch
    assert (mismatch.missing, mismatch.extra) == (["b"], ["d"])
    assert mismatch.misshapen == ["c [2, 3], not [3, 2]"]


def test_equal_inventories_do_not_mismatch() -> None:
    assert not compared({"a": (1,)}, {"a": (1,)})
