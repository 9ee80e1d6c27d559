"""Exchanging sites: a candidate goes on with what the reference computed at the same place."""

from collections.abc import Iterable

from torch import Tensor

from harness.adapter import Adapter


def exchange(reference: Adapter, candidate: Adapter, sites: Iterable[str]) -> None:
    """From now on the candidate's `sites` give what the reference's gave last; for lockstep, and official layouts.

    In lockstep the reference runs each pass first, and a site is shown once a pass: so it is the tensor of the same
    key. Call it before recorders are attached, so that they see what was exchanged.
    """
    for name in sites:
        _exchange(reference, candidate, name)


def _exchange(reference: Adapter, candidate: Adapter, name: str) -> None:
    given, taking = reference.sites()[name], candidate.sites()[name]
    assert taking.layout is None, f"{name}: no way back from the official layout"
    latest: list[Tensor] = []

    def keep(module: object, inputs: object, output: Tensor) -> None:
        latest[:] = [(output if given.layout is None else given.layout(output)).clone()]

    given.module.register_forward_hook(keep)
    taking.module.register_forward_hook(lambda module, inputs, output: latest[0].to(output))
