"""A stage's folder: what it was asked for, whether it is finished, and where its results came from.

run.json      the resolved config and the hashes of all inputs, written before work starts
manifest.json the same plus metrics, versions and git revision; exists only when the stage is finished
"""

import dataclasses
import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..robot.errors import CheckpointError, ConfigError

REQUEST, MANIFEST = "run.json", "manifest.json"


def begin(out: Path, stage: str, cfg: Any, inputs: Mapping[str, str]) -> bool:
    """Claim `out` for this work. True if it is already finished there; a half-finished run is resumed.

    Raises ConfigError if the folder holds a run of something else, naming what differs.
    """
    request = {"stage": stage, "config": to_json(cfg), "inputs": dict(inputs)}
    file = out / REQUEST
    if file.exists():
        found = json.loads(file.read_text())
        differences = list(_differences(found, request))
        if differences:
            raise ConfigError(
                f"{out} holds another run; it differs in {'; '.join(differences[:5])}. "
                "Choose another output folder, or delete this one"
            )
        return (out / MANIFEST).exists()
    out.mkdir(parents=True, exist_ok=True)
    write_json(file, request)
    return False


def finish(out: Path, metrics: Mapping[str, float]) -> None:
    """Mark the run in `out` as finished."""
    request = json.loads((out / REQUEST).read_text())
    versions = {"torch": torch.__version__, "revision": git_revision()}
    write_json(out / MANIFEST, {**request, "metrics": dict(metrics), "versions": versions})


def read_manifest(out: Path) -> dict[str, Any]:
    """Raises CheckpointError if the stage in `out` has not finished."""
    file = out / MANIFEST
    if not file.exists():
        raise CheckpointError(f"{out} is not a finished stage: {MANIFEST} is missing. Run the stage's command again")
    return json.loads(file.read_text())


def file_hash(path: Path) -> str:
    """First 16 hex digits of the SHA-256 of a file. Raises CheckpointError if it is not there."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()[:16]


def write_json(path: Path, value: Any) -> None:
    """Atomically."""
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(part, path)


def to_json(value: Any) -> Any:
    """Dataclasses (with their type name, so that unions can be told apart), paths and tuples to plain JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    return value


def git_revision() -> str:
    """Revision of the source tree, '' when it is not a git checkout."""
    try:
        out = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return out.stdout.strip()


def _differences(found: Any, wanted: Any, path: str = "") -> Any:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted({*found, *wanted}):
            yield from _differences(found.get(key), wanted.get(key), f"{path}.{key}" if path else key)
    elif found != wanted:
        yield f"{path}: {found} there, {wanted} asked for"
