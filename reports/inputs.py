"""What a scenario gave to both sides, as text. Read without torch."""

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from waypoint_parity.harness.run.family import Family

# Of the metadata of a scenario file, what a report says elsewhere.
_SAID = ("schema", "family", "name", "units")
# What NumPy has no type for.
_NO_ARRAYS = ("BF16", "F8_E4M3", "F8_E5M2")


@dataclass(frozen=True)
class Given:
    """`facts` by name; and texts for every unit, by the name of the field."""

    facts: dict[str, str]
    of_units: dict[str, list[str]]


def read_given(scenario: Path, family: Family) -> Given | None:
    """What a scenario file gives; None where it cannot be read."""
    try:
        with safe_open(scenario, framework="numpy") as file:
            metadata: dict[str, str] = file.metadata() or {}
            names = [name for name in file.keys() if file.get_slice(name).get_dtype() not in _NO_ARRAYS]  # noqa: SIM118
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError):
        return None
    facts = {name.replace("_", " "): value for name, value in metadata.items() if name not in _SAID}
    of_units = dict[str, list[str]]()
    for name, field in family.fields.items():
        if field.told is None:
            continue
        texts = field.told(tensors) if name in tensors else []
        if field.of_units:
            of_units[name] = texts
        else:
            facts[f"{name} given"] = "; ".join(texts) or "none"
    return Given(facts, of_units)
