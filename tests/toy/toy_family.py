"""A family of models that has nothing of Waypoint's, as somebody else would write it: all of it is in this folder.

Token ids are prepared before there is any tensor of floats. Every step evaluates two branches, "with" the tokens and
"without". A second-order sampler remembers the last velocity. A unit shows two pictures and a piece of sound.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from waypoint_parity.harness.checkpoint.weights import Weights
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.adapter import Pass, Site
from waypoint_parity.harness.run.family import Factor, Field, Opened, Part, Plain
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.sites import Kind, SiteRow, SiteTable

BRANCHES = ("with", "without")
STEPS, SIDE = 3, 16


@dataclass(frozen=True)
class Geometry:
    width: int = 12
    layers: int = 2
    words: int = 7

    def to_json(self) -> dict[str, dict[str, Any]]:
        return {"net": asdict(self)}


def table(geometry: Geometry) -> SiteTable:
    rows = [
        SiteRow(name="input.ids", phases=("prepare",), part="ids", kind=Kind.INPUT, accepted_as=("ids",)),
        SiteRow(name="embedding", phases=("prepare",), part="embedding", reads=("input.ids",)),
        SiteRow(
            name="input.start", phases=("refine",), part="start", kind=Kind.INPUT, once=True, accepted_as=("start",)
        ),
    ]
    entering = ("input.start", "sample", "embedding")
    for layer in range(geometry.layers):
        rows.append(SiteRow(name=f"net.{layer}", phases=("refine",), part="net", branched=True, reads=entering))
        entering = (f"net.{layer}",)
    return SiteTable(
        [
            *rows,
            SiteRow(name="guided", phases=("refine",), part="guidance", reads=entering),
            SiteRow(name="memory", phases=("refine",), part="sampler", kind=Kind.CACHE, reads=("guided",)),
            SiteRow(name="sample", phases=("refine",), part="sampler", kind=Kind.LATENT, reads=("guided", "memory")),
            SiteRow(name="pictures", phases=("show",), part="pictures", kind=Kind.PICTURE, reads=("sample",)),
            SiteRow(name="sound", phases=("show",), part="sound", kind=Kind.SOUND, reads=("sample",)),
        ]
    )


def reseeded(scenario: Scenario, geometry: Geometry, level: str) -> Scenario:
    return replace(scenario.with_tensors(start=drawn(scenario.units, geometry, int(level))), seed=int(level))


def guided_by(scenario: Scenario, geometry: Geometry, level: str) -> Scenario:
    return replace(scenario, numbers={**scenario.numbers, "guidance": float(level)})


def drawn(units: int, geometry: Geometry, seed: int) -> Tensor:
    return torch.randn(units, 4, geometry.width, generator=torch.Generator().manual_seed(seed))


class Toy(Plain):
    name = "toy"
    unit_name = "clip"
    components = ("net",)
    layout, configs = "toy.json and toy.safetensors", ("toy.json",)
    tolerances: ClassVar = {"fp32": (1e-5, 1e-3)}
    sites = table(Geometry())
    parts = tuple(
        Part(name, group, place, component="net" if name in ("embedding", "net") else "")
        for name, group, place in (
            ("ids", "input", "input"),
            ("embedding", "text", "input"),
            ("start", "input", "input"),
            ("net", "net", "transformer"),
            ("guidance", "sampler", "sampler"),
            ("sampler", "sampler", "sampler"),
            ("pictures", "shown", "after the decoder"),
            ("sound", "shown", "after the decoder"),
        )
    )
    fields: ClassVar = {
        "start": Field(dtype="float32", axes=("unit", "4", "width"), drawn=True),
        "ids": Field(dtype="int64", axes=("tokens",)),
    }
    factors: ClassVar = {
        "guidance": Factor(change=guided_by, levels=("2.0", "5.0"), name_of="guidance{}".format),
        "seed": Factor(change=reseeded, name_of="seed{}".format),
    }

    def layout_of(self, folder: Path) -> str | None:
        return "toy" if (folder / "toy.json").is_file() else None

    def weight_files(self, folder: Path) -> tuple[str, ...]:
        return ("toy.safetensors",)

    def open(self, folder: Path, find: Any) -> Opened:
        geometry = Geometry(**json.loads((folder / "toy.json").read_text()))
        return Opened(geometry, {"net": Weights({folder / "toy.safetensors": ""})})

    def keys(self, component: str, geometry: Geometry) -> dict[str, tuple[int, ...]]:
        square = (geometry.width, geometry.width)
        return {"embedding": (geometry.words, geometry.width), **{f"net.{n}": square for n in range(geometry.layers)}}

    def units(self, tensors: Mapping[str, Tensor]) -> int:
        return tensors["start"].shape[0]

    def make(self, geometry: Geometry, *, name: str, seed: int, units: int, **wanted: Any) -> Scenario:
        tensors = {"start": drawn(units, geometry, seed), "ids": torch.tensor([3, 1, 4])}
        return Scenario("toy", name, seed, units, tensors, numbers={"guidance": 2.0})

    def check(self, scenario: Scenario, geometry: Geometry) -> None:
        if scenario["start"].shape[1:] != (4, geometry.width):
            raise UserError("no start of this model", found="another shape", expected="[unit,4,width]", do="make one")

    def first_units(self, scenario: Scenario, units: int) -> Scenario:
        return replace(scenario.with_tensors(start=scenario["start"][:units]), units=units)

    def session(self, scenario: Scenario, geometry: Geometry) -> Iterator[tuple[int, Pass]]:
        yield 0, Pass("prepare")
        for unit in range(scenario.units):
            for step in range(STEPS):
                yield unit, Pass("refine", step, branches=BRANCHES)
            yield unit, Pass("show")

    def table(self, geometry: Geometry, scenario: Scenario) -> SiteTable:
        return table(geometry)

    def layer_groups(self, names: Any, geometry: Geometry) -> dict[str, list[int]]:
        return {"every": list(range(geometry.layers))}


FAMILY = Toy()


class Reference:
    """One call of the net for each branch, then the sampler."""

    def __init__(self, checkpoint: Any, numerics: Any) -> None:
        weights = checkpoint.weights("net")
        self.embedding = weights["embedding"]
        self.net = [weights[f"net.{n}"] for n in range(checkpoint.geometry.layers)]
        self.probes = {row.name: nn.Identity() for row in table(checkpoint.geometry).rows}

    def describe(self) -> dict[str, str]:
        return {"version": "0.1"}

    def sites(self) -> dict[str, Site]:
        return {name: Site(probe) for name, probe in self.probes.items()}

    def session(self, scenario: Scenario) -> Iterator[tuple[int, Pass]]:
        yield 0, Pass("prepare")
        text = self.show("embedding", self.embedding[self.show("input.ids", scenario["ids"])].mean(0))
        guidance, memory = scenario.numbers["guidance"], torch.zeros(4, self.embedding.shape[1])
        for unit in range(scenario.units):
            x = scenario["start"][unit]
            for step in range(STEPS):
                velocity = {}
                for branch in BRANCHES:
                    yield unit, Pass("refine", step, branches=(branch,))
                    velocity[branch] = self.predict(x + text if branch == "with" else x)
                yield unit, Pass("refine", step)
                x, memory = self.advance(x if step else self.show("input.start", x), velocity, guidance, memory)
            yield unit, Pass("show")
            self.decode(x)

    def predict(self, x: Tensor) -> Tensor:
        for number, weight in enumerate(self.net):
            x = self.show(f"net.{number}", torch.tanh(x @ weight.T))
        return x

    def advance(
        self, x: Tensor, velocity: Mapping[str, Tensor], guidance: float, memory: Tensor
    ) -> tuple[Tensor, Tensor]:
        guided = velocity["without"] + guidance * (velocity["with"] - velocity["without"])
        guided = self.show("guided", guided)
        memory = self.show("memory", 0.5 * memory + guided)
        return self.show("sample", x + memory / STEPS), memory

    def decode(self, x: Tensor) -> None:
        waves = torch.arange(SIDE * SIDE).reshape(SIDE, SIDE, 1) * x[:2, None, None, :3] / 40
        self.show("pictures", (127.5 + 127.5 * waves.sin()).round().to(torch.uint8))
        self.show("sound", x.flatten().cumsum(0))

    def show(self, site: str, value: Tensor) -> Tensor:
        shown: Tensor = self.probes[site](value)
        return shown


class Batched(Reference):
    """Both branches in one call."""

    def sites(self) -> dict[str, Site]:
        def split(output: Tensor, inputs: object) -> dict[str, Tensor]:
            return dict(zip(BRANCHES, output, strict=True))

        def joined(shown: Mapping[str, Tensor], output: Tensor) -> Tensor:
            return torch.stack([shown[branch] for branch in BRANCHES])

        sites = super().sites()
        return {n: replace(s, layout=split, restore=joined) if n.startswith("net.") else s for n, s in sites.items()}

    def component(self, name: str) -> Callable[[int, Pass, Mapping[str, Tensor]], None]:
        text = torch.zeros(self.embedding.shape[1])

        def call(unit: int, at: Pass, inputs: Mapping[str, Tensor]) -> None:
            nonlocal text
            if at.phase == "prepare":
                text = self.show("embedding", self.embedding[inputs["input.ids"]].mean(0))
            else:
                x = inputs["sample"] if at.step else inputs["input.start"]
                self.predict(torch.stack([x + text, x]))

        return call

    def session(self, scenario: Scenario) -> Iterator[tuple[int, Pass]]:
        yield 0, Pass("prepare")
        text = self.show("embedding", self.embedding[self.show("input.ids", scenario["ids"])].mean(0))
        memory = torch.zeros(4, self.embedding.shape[1])
        for unit in range(scenario.units):
            x = scenario["start"][unit]
            for step in range(STEPS):
                yield unit, Pass("refine", step, branches=BRANCHES)
                x = x if step else self.show("input.start", x)
                velocity = dict(zip(BRANCHES, self.predict(torch.stack([x + text, x])), strict=True))
                x, memory = self.advance(x, velocity, scenario.numbers["guidance"], memory)
            yield unit, Pass("show")
            self.decode(x)


class Forgetful(Batched):
    """Its sampler remembers a tenth too little."""

    def advance(self, x: Tensor, velocity: Any, guidance: float, memory: Tensor) -> tuple[Tensor, Tensor]:
        return super().advance(x, velocity, guidance, memory * 0.9)


class OneBranch(Batched):
    """Its last layer is off in the branch without the tokens."""

    def predict(self, x: Tensor) -> Tensor:
        for number, weight in enumerate(self.net):
            y = torch.tanh(x @ weight.T)
            if number == len(self.net) - 1:
                y = torch.stack([y[0], y[1] * 1.01])
            x = self.show(f"net.{number}", y)
        return x
