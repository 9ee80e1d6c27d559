"""Loading the pipeline: remote code only where it is trusted, and only at a revision that is named."""

import hashlib
import warnings
from pathlib import Path
from typing import Any

import torch

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.checkpoint.hub import PINNED
from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.process_settings import preserved_settings

TRUST = "trust-remote-code"
PATCHED = "patched"
TESTED_VERSION = "0.42.1"
# accelerate: else diffusers loads no model that keeps a part in fp32, as Waypoint's keeps its noise conditioner.
PIP_LINE = f'pip install "diffusers=={TESTED_VERSION}" accelerate transformers'

# What a session hands in, by its key in the pipeline's state; a pipeline that does not take it computes something else.
_GIVEN = ("latents", "button", "mouse", "scroll", "scheduler_sigmas", "image", "output_type")
_GIVEN_PROMPT = ("prompt_embeds", "prompt_pad_mask")
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
    pipeline_class, version = _import()
    folder = _fetched(checkpoint.origin)
    with preserved_settings(), warnings.catch_warnings(action="ignore"):
        try:
            pipe = pipeline_class.from_pretrained(folder, trust_remote_code=True)
        # TypeError: of a folder without code for blocks diffusers asks for a class without a name.
        except (OSError, ValueError, ImportError, TypeError) as error:
            raise _unusable(checkpoint.origin, f"diffusers {version}: {str(error).strip()}") from error
        _leave_text_to_the_scenario(pipe)
        _check_inputs(checkpoint, pipe)
        _load_components(checkpoint.origin, pipe, folder, numerics)
        if PATCHED in numerics.options:
            _patch(checkpoint.origin, pipe.transformer)
    return pipe


def identity(origin: str) -> str:
    """What code is run: the hub id with its revision, or for a folder the digest of its Python files."""
    if PINNED.fullmatch(origin):
        return origin
    digest = hashlib.sha256()
    for path in sorted(Path(origin).rglob("*.py")):
        digest.update(path.relative_to(origin).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"a folder, code sha256 {digest.hexdigest()}"


def _fetched(origin: str) -> str:
    """The folder of the pipeline; from the hub, the snapshot of the pinned revision.

    A snapshot, because diffusers itself asks the hub for every piece of code, and for one that is cached, too. The
    weights lie in it: the checkpoint was opened there.
    """
    hub = PINNED.fullmatch(origin)
    if hub is None:
        return origin
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(hub["repo"], revision=hub["revision"], allow_patterns=["*.py", "*.json"])
    except Exception as error:  # among them those of its transport, which differs between the client's releases
        raise _unusable(origin, str(error).partition("\n")[0] or type(error).__name__) from error


def _leave_text_to_the_scenario(pipe: Any) -> None:
    """Take the prompt's encoding out of the pipeline: a scenario brings the embeddings, and no text.

    What no block makes any more becomes an input of the pipeline. Its public property hands out copies of the blocks.
    """
    blocks = pipe._blocks.sub_blocks
    encoders = [name for name, block in blocks.items() if "prompt_embeds" in block.intermediate_output_names]
    for name in encoders:
        blocks.pop(name)


def _check_inputs(checkpoint: Checkpoint, pipe: Any) -> None:
    given = _GIVEN + (_GIVEN_PROMPT if checkpoint.geometry.transformer.prompt_conditioning else ())
    if lacking := sorted(set(given) - set(pipe.blocks.input_names)):
        raise UserError(
            f"{checkpoint.origin}: the pipeline does not take what a session hands in",
            found=f"no input {listed(lacking)}",
            expected=f"the inputs {listed(list(given), most=len(given))}",
            do="use a revision of the repository whose blocks declare these inputs",
        )


def _load_components(origin: str, pipe: Any, folder: str, numerics: Numerics) -> None:
    """Load the two models, the autoencoder in fp32, out of `folder` and nowhere else."""
    homes = {name: pipe.get_component_spec(name).pretrained_model_name_or_path for name in _COMPONENTS}
    if elsewhere := [f"{name} of {home}" for name, home in homes.items() if home != folder]:
        raise _unusable(origin, f"no weights of its own for {listed(elsewhere)}, which no revision pins")
    dtypes = {"vae": torch.float32, "default": numerics.dtype}
    pipe.load_components(list(_COMPONENTS), torch_dtype=dtypes, trust_remote_code=True)
    if absent := [name for name in _COMPONENTS if getattr(pipe, name, None) is None]:
        raise _unusable(origin, f"{listed(absent)} could not be loaded; diffusers has logged why")
    for name in _COMPONENTS:
        getattr(pipe, name).to(numerics.device)


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
