"""The contract: two runs are scored only if they were asked the same question."""

from collections.abc import Collection

from harness.records import Manifest


def broken_contract(candidate: Manifest, reference: Manifest, accepted_inputs: Collection[str] = ()) -> str | None:
    """What makes the two runs incomparable, by their manifests; None where nothing does.

    What each side then consumed is compared by the `input.*` records, while the ledger takes them.
    """
    pairs = {
        "checkpoint": (candidate.checkpoint_digest, reference.checkpoint_digest),
        "dtype": (candidate.numerics.get("dtype"), reference.numerics.get("dtype")),
    }
    if not accepted_inputs:
        pairs["sigmas"] = (str(candidate.sigmas), str(reference.sigmas))
        pairs["scenario"] = (candidate.scenario_digest, reference.scenario_digest)
    for name, (found, expected) in pairs.items():
        if found != expected:
            return f"{name} differs: candidate {found}, reference {expected}"
    return None
