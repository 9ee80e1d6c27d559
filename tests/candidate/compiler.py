"""What torch.compile needs of the machine."""

import os
import shutil

import pytest

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None,
    reason="torch.compile on a CPU needs a C++ compiler: g++ or $CXX",
)
