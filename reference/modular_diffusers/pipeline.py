"""Loading the pipeline: remote code only where it is trusted, and only at a revision that is named."""

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness.adapter import Numerics
from harness.checkpoint import Checkpoint
from harness.errors import UserError, listed
from harness.hub import PINNED
from reference.process_settings import preserved_settings

TRUST = "trust-remote-code"
PATCHED = "patched"
TESTED_VERSION = "0.42.1"
PIP_LINE = f'pip install "diffusers=={TESTED_VERSION}"'

# What a session hands in, by its key in the pipeline's state; a pipeline that does not take it computes something else.
GIVEN = ("latents", "button", "mouse", "scroll", "prompt_embeds", "prompt_pad_mask", "scheduler_sigmas")
_COMPONENTS = ("transformer", "vae")


def load_pipeline(checkpoint: Checkpoint, numerics: Numerics) -> Any:
    """The pipeline in the checkpoint's folder or hub repository, its transformer and its autoencoder loaded.

    Raises UserError where its code is not trusted, where diffusers is not installed, and where the repository holds no
    pipeline that can be driven.
    """
    if TRUST not in numerics.options:
        raise UserError(
            f"{checkpoint.origin}: its pipeline is code that comes with the weights, and would be run",
            found="no leave to run it",
            expected=f"diffusers+{TRUST}",
            do="read the repository's Python files at this revision first; then add the option",
        )
    repository, revision = located(checkpoint.origin)
    pipeline_class, version = _import()
    with preserved_settings(), warnings.catch_warnings(action="ignore"):
        try:
            pipe = pipeline_class.from_pretrained(repository, trust_remote_code=True, revision=revision)
        except (OSError, ValueError, ImportError) as error:
            raise _unusable(checkpoint.origin, f"diffusers {version}: {str(error).strip()}") from error
        _leave_text_to_the_scenario(pipe)
        _check_inputs(checkpoint.origin, pipe)
        dtypes = {"vae": torch.float32, "default": numerics.dtype}
        pipe.load_components(list(_COMPONENTS), torch_dtype=dtypes, trust_remote_code=True, revision=revision)
        absent = [name for name in _COMPONENTS if getattr(pipe, name, None) is None]
        if absent:
            raise _unusable(checkpoint.origin, f"{listed(absent)} could not be loaded; diffusers has logged why")
        for name in _COMPONENTS:
            getattr(pipe, name).to(numerics.device)
        if PATCHED in numerics.options:
            _patch(checkpoint.origin, pipe.transformer)
    return pipe


def located(origin: str) -> tuple[str, str | None]:
    """(folder, None) or (hub repository, pinned revision) of the pipeline of a checkpoint from `origin`."""
    hub = PINNED.fullmatch(origin)
    return (hub["repo"], hub["revision"]) if hub else (origin, None)


def identity(origin: str) -> str:
    """What code is run: the hub id with its revision, or for a folder the digest of its Python files."""
    if PINNED.fullmatch(origin):
        return origin
    digest = hashlib.sha256()
    for path in sorted(Path(origin).rglob("*.py")):
        digest.update(path.relative_to(origin).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"a folder, code sha256 {digest.hexdigest()}"


def inputs_of(pipe: Any) -> set[str]:
    """The names that the pipeline's call takes."""
    return set(pipe.blocks.input_names)


def _leave_text_to_the_scenario(pipe: Any) -> None:
    """Take the prompt's encoding out of the pipeline: a scenario brings the embeddings, and no text.

    What no block makes any more becomes an input of the pipeline. Its public property hands out copies of the blocks.
    """
    blocks = pipe._blocks.sub_blocks
    encoders = [name for name, block in blocks.items() if "prompt_embeds" in block.intermediate_output_names]
    for name in encoders:
        blocks.pop(name)


def _check_inputs(origin: str, pipe: Any) -> None:
    if lacking := sorted(set(GIVEN) - inputs_of(pipe)):
        raise UserError(
            f"{origin}: the pipeline does not take what a session hands in",
            found=f"no input {listed(lacking)}",
            expected=listed(list(GIVEN)),
            do="use a revision of the repository whose blocks declare these inputs",
        )


def _patch(origin: str, transformer: Any) -> None:
    if not hasattr(transformer, "apply_inference_patches"):
        raise _unusable(origin, "a transformer without apply_inference_patches")
    transformer.apply_inference_patches()


def _import() -> tuple[Any, str]:
    """(ModularPipeline, version) of the diffusers that is installed."""
    try:
        with preserved_settings(), warnings.catch_warnings(action="ignore"):
            import diffusers

            return diffusers.ModularPipeline, diffusers.__version__
    except (ImportError, AttributeError) as error:
        raise UserError(
            "diffusers with modular pipelines is not installed",
            found=str(error),
            expected=f"diffusers {TESTED_VERSION}, the tested version",
            do=PIP_LINE,
        ) from error


def _unusable(origin: str, found: str) -> UserError:
    return UserError(
        f"{origin}: no modular pipeline of Waypoint could be loaded",
        found=found,
        expected="modular_model_index.json, the blocks' code, transformer/ and vae/, as Overworld/Waypoint-1-Small has "
        f"them, for diffusers {TESTED_VERSION}",
        do="name the repository at a revision that has a modular pipeline, or drive another implementation",
    )


def settings(pipe: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `given` that the pipeline's call takes; it warns of others."""
    taken = inputs_of(pipe)
    return {name: value for name, value in given.items() if name in taken}
