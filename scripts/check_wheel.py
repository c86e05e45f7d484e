"""Is an installed armflow complete? Compare it with the sources it was built from, and import every module.

python -I check_wheel.py SOURCES
"""

import importlib
import sys
import tomllib
from pathlib import Path


def main(sources: Path) -> None:
    import armflow

    installed = Path(armflow.__file__).parent
    assert sources not in installed.parents, f"this is about an installed wheel, {installed} is not one"
    expected = set(packaged_files(sources))
    found = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    if found != expected:
        sys.exit(f"missing in the wheel: {listing(expected - found)}; should not be there: {listing(found - expected)}")
    modules = sorted(".".join(["armflow", *path.with_suffix("").parts]) for path in expected if path.suffix == ".py")
    for name in modules:
        importlib.import_module(name.removesuffix(".__init__"))
    print(f"the wheel holds all {len(expected)} files and all {len(modules)} modules import")


def packaged_files(sources: Path) -> list[Path]:
    """Everything in the package's folders but their pages, and the Python files of the root. A model card is no page."""
    settings = tomllib.loads((sources / "pyproject.toml").read_text())
    folders = {name.split(".")[1] for name in settings["tool"]["setuptools"]["packages"] if "." in name}
    files = [path for folder in folders for path in (sources / folder).rglob("*") if path.is_file()]
    kept = [p for p in files if p.name != "README.md" or p.with_name("model.safetensors").exists()]
    return [p.relative_to(sources) for p in [*sources.glob("*.py"), *kept]]


def listing(paths: set[Path]) -> str:
    return ", ".join(sorted(map(str, paths))) or "nothing"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
