"""The environment of every test, set before torch, LeRobot or matplotlib are imported."""

import os

os.environ.update(
    HF_HUB_OFFLINE="1",  # a test that would download something fails instead
    MPLBACKEND="Agg",
    TOKENIZERS_PARALLELISM="false",
)
# Tests run in several processes, and their tensors are small: more threads only get in each other's way.
for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

from hypothesis import settings  # noqa: E402 - after the environment

settings.register_profile("armflow", deadline=None)  # a busy machine is not a defect; the timeout of a test still holds
settings.load_profile("armflow")
