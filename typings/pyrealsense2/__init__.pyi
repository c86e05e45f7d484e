"""librealsense's bindings are compiled and come without stubs: to a type checker every name of them is Any."""

from typing import Any

def __getattr__(name: str) -> Any: ...
