"""What the critic gates found, as plain numbers that go into a manifest and come back."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self


@dataclass(frozen=True)
class Gate:
    """One measured number and its verdict."""

    name: str
    value: float  # NaN where it could not be measured, which does not pass
    sense: Literal[">=", "<="]
    threshold: float
    meaning: str  # one line for whoever reads the report
    numbers: dict[str, float]  # what else was measured on the way

    @property
    def passed(self) -> bool:
        return self.value >= self.threshold if self.sense == ">=" else self.value <= self.threshold

    def __str__(self) -> str:
        verdict = "pass" if self.passed else "FAIL"
        return f"{verdict}  {self.name}: {self.value:.3g} ({self.sense} {self.threshold:g})  {self.meaning}"


@dataclass(frozen=True)
class GateReport:
    gates: tuple[Gate, ...]

    @property
    def passed(self) -> bool:
        """Whether policy updates may start."""
        return all(gate.passed for gate in self.gates)

    @property
    def failures(self) -> tuple[Gate, ...]:
        return tuple(gate for gate in self.gates if not gate.passed)

    def __str__(self) -> str:
        return "\n".join(str(gate) for gate in self.gates)

    def to_dict(self) -> dict[str, Any]:
        """For json; NaN becomes None, which json can say."""
        return {
            "passed": self.passed,
            "gates": [
                {
                    **asdict(gate),
                    "value": _json_float(gate.value),
                    "numbers": {k: _json_float(v) for k, v in gate.numbers.items()},
                    "passed": gate.passed,
                }
                for gate in self.gates
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        return cls(
            tuple(
                Gate(
                    name=g["name"],
                    value=_python_float(g["value"]),
                    sense=g["sense"],
                    threshold=g["threshold"],
                    meaning=g["meaning"],
                    numbers={k: _python_float(v) for k, v in g["numbers"].items()},
                )
                for g in data["gates"]
            )
        )


def _json_float(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _python_float(x: float | None) -> float:
    return math.nan if x is None else x
