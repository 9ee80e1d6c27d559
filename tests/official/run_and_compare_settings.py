"""A process that reads its settings, imports and runs the official package, and reads them again.

`python -m tests.official.run_and_compare_settings`; ends with status 1 and a list where anything differs. It looks at
more than `harness.run.process_settings` keeps, and uses none of it.
"""

import locale
import logging
import os
import random
import signal
import sys
import warnings
from typing import Any

import numpy as np
import torch
import torch._dynamo.config
import torch._functorch.config
import torch._inductor.config

from tests.parity.implementations import GOLDEN, Capture
from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import read_scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import recording
from waypoint_parity.reference.world_engine.package import WAYPOINT_15, installed_release

WORLD_ENGINE = "waypoint_parity.reference.world_engine.adapter:WorldEngineAdapter"


def arithmetic() -> dict[str, Any]:
    mkldnn: Any = torch.backends.mkldnn
    cuda = torch.backends.cuda
    return {
        "matmul precision": torch.get_float32_matmul_precision(),
        "precisions": [
            part.fp32_precision for part in (torch.backends, cuda.matmul, mkldnn, mkldnn.matmul, mkldnn.conv)
        ],
        "tf32": [cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32],
        "reduced": [
            cuda.matmul.allow_bf16_reduced_precision_reduction,
            cuda.matmul.allow_fp16_reduced_precision_reduction,
        ],
        "cudnn": [torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic],
        "attention": [cuda.flash_sdp_enabled(), cuda.math_sdp_enabled(), cuda.mem_efficient_sdp_enabled()],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "gradients": [torch.is_grad_enabled(), torch.is_inference_mode_enabled()],
        "random": [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()],
    }


def compiler() -> dict[str, Any]:
    configs = (torch._dynamo.config, torch._inductor.config, torch._functorch.config)
    settings = {
        f"{config.__name__}.{key}": repr(value) for config in configs for key, value in config.get_config_copy().items()
    }
    return settings | {"stance": repr(torch._dynamo.eval_frame._stance)}


def interpreter() -> dict[str, Any]:
    return {
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
        "logging": [logging.root.level, list(logging.root.handlers), logging.root.manager.disable],
        "hooks": [sys.excepthook, sys.displayhook, sys.gettrace(), sys.getprofile()],
        "path": list(sys.path),
        "recursion": sys.getrecursionlimit(),
        "signals": {name: signal.getsignal(name) for name in signal.valid_signals()},
        "locale": locale.setlocale(locale.LC_ALL),
        "folder": os.getcwd(),
    }


def settings() -> dict[str, Any]:
    return arithmetic() | compiler() | interpreter()


def main() -> int:
    before = settings()
    base, image = ("w15-base", "w15-image") if installed_release() is WAYPOINT_15 else ("base", "image")
    checkpoint, scenario = open_checkpoint(GOLDEN / base), read_scenario(GOLDEN / image / "scenario.safetensors")
    for options, dtype in (("", torch.float32), ("+patched", torch.bfloat16)):
        adapter = registry.load(WORLD_ENGINE + options, checkpoint, Numerics(dtype, torch.device("cpu")))
        with recording(adapter.sites(), Capture()) as recorder:
            run(adapter, scenario, checkpoint, recorder)
    after = settings()
    assert "world_engine" in sys.modules
    changes = {name: (value, after[name]) for name, value in before.items() if after[name] != value}
    for name, (old, new) in changes.items():
        print(f"{name}: {old} -> {new}")
    print(f"{len(changes)} of {len(before)} settings changed" if changes else "nothing changed")
    return 1 if changes else 0


if __name__ == "__main__":
    sys.exit(main())
