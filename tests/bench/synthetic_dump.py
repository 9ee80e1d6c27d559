"""Dumps of as many records as one asks for, written in seconds: the passes of 22 layers, frame after frame."""

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.harness.observations import manifest
from waypoint_parity.harness.record.records import MANIFEST_NAME, RECORDS_NAME, SKETCH_SIZE, to_json
from waypoint_parity.harness.record.seal import file_digest, sealed

LAYERS = 22
PARTS = ("cond_head", "attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.q_rope", "attn.k_rope", "attn", "mlp")
PASSES = [("denoise", 0), ("denoise", 1), ("denoise", 2), ("denoise", 3), ("cache", 0)]
# Values of so many records are drawn; a prime, so that a site has others in every frame.
DRAWN = 1999


def write_synthetic_dump(folder: Path, records: int, noise: float = 0.0) -> Path:
    """A dump of so many records, whose outputs are `noise` (relative) from those of one without."""
    folder.mkdir(parents=True)
    exact, noisy, heads = _values(0.0), _values(noise), list(_heads())
    with (folder / RECORDS_NAME).open("wb") as file:
        for start in range(0, records, 10_000):
            lines = []
            for number in range(start, min(start + 10_000, records)):
                frame, place = divmod(number, len(heads))
                values = exact if b'"input.' in heads[place] else noisy
                lines.append(b'{"unit":%d,%s,%s}\n' % (frame, heads[place], values[number % DRAWN]))
            file.write(b"".join(lines))
    finished = manifest(expected=records, observed=records, complete=True)
    digests = {RECORDS_NAME: file_digest(folder / RECORDS_NAME)}
    (folder / MANIFEST_NAME).write_bytes(to_json(sealed(finished, digests)))
    return folder


def _heads() -> Iterator[bytes]:
    """The fields of every site of a frame's passes, from `phase` to `dtype`."""
    blocks = [f"transformer.blocks.{layer}" for layer in range(LAYERS)]
    inner = [site for block in blocks for site in (*(f"{block}.{part}" for part in PARTS), block)]
    for phase, step in PASSES:
        for site in ("input.sigma", "input.timestamp", "denoise_step_emb", "ctrl_emb", "patchify", *inner, "out_norm"):
            head = f'"phase":"{phase}","step":{step},"site":"{site}","call":0,"sigma":0.75'
            yield f'{head},"shape":[1,256,2560],"dtype":"float32"'.encode()


def _values(noise: float) -> list[bytes]:
    """The remaining fields of DRAWN records of normal values, moved by `noise`."""
    generator = np.random.default_rng(0)
    norm = np.sqrt(256 * 2560)
    sketches = generator.standard_normal((DRAWN, SKETCH_SIZE)) + noise * generator.standard_normal((DRAWN, SKETCH_SIZE))
    sketches = (sketches * norm / np.sqrt(SKETCH_SIZE)).astype("<f4")
    statistics = generator.standard_normal((DRAWN, 13)) * (1 + noise)
    values = []
    for number, (sketch, drawn) in enumerate(zip(sketches, statistics.tolist(), strict=True)):
        mean, least, most, absolute, deviation, *sample = (f"{value:.9g}" for value in drawn)
        texts = (
            f'"mean":{mean},"std":{deviation},"min":{least},"max":{most},"absmean":{absolute},"rms":{1 + noise:.9g}',
            f'"nan":0,"posinf":0,"neginf":0,"sample":[{",".join(sample)}]',
            f'"sketch":"{base64.b64encode(sketch.tobytes()).decode()}"',
            f'"digest":"{number + int(noise > 0) * DRAWN:016x}"',
        )
        values.append(",".join(texts).encode())
    return values
