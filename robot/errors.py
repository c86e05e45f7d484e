"""Every error armflow raises on purpose. A message names the thing, what was expected, and what to do next."""


class ArmflowError(Exception):
    """Root of all armflow errors."""


class ConfigError(ArmflowError):
    """A configuration value or file is wrong."""


class DeviceError(ArmflowError):
    """Something is wrong with a device; `device` names it."""

    def __init__(self, device: str, message: str) -> None:
        super().__init__(device, message)  # the arguments as given, so that the error survives pickling by a worker
        self.device, self.message = device, message

    def __str__(self) -> str:
        return f"{self.device}: {self.message}"


class DeviceNotFound(DeviceError):
    """The device is not there."""


class DeviceTimeout(DeviceError):
    """The device did not answer in time."""


class StaleReading(DeviceError):
    """The newest measurement is older than allowed."""


class DeviceFault(DeviceError):
    """The device reports a fault; an operator must look."""


class SafetyStop(ArmflowError):
    """The safety filter refused a command and the arm was told to hold."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"safety stop: {self.reason}"


class OperatorNeeded(ArmflowError):
    """A person has to do something before work can go on."""

    def __init__(self, instruction: str) -> None:
        super().__init__(instruction)
        self.instruction = instruction


class DataError(ArmflowError):
    """A dataset or an episode is not what it should be."""


class MissingStats(DataError):
    """Normalisation statistics are absent."""


class SchemaMismatch(DataError):
    """Two datasets, or a dataset and a policy, disagree on their columns, rates or joint order."""


class CorruptEpisode(DataError):
    """An episode cannot be read or its parts disagree."""


class CheckpointError(ArmflowError):
    """A checkpoint is missing, truncated or of another kind."""


class CalibrationError(ArmflowError):
    """A calibration is missing, out of date or inconsistent."""
