"""Errors travel: from a worker process to the session, and from a message to the person who has to act."""

import inspect
from multiprocessing import Pipe

import pytest
from armflow.robot import errors
from armflow.robot.errors import ArmflowError, DeviceError, OperatorNeeded, SafetyStop

ALL = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, ArmflowError)]


def _make(cls: type[ArmflowError]) -> ArmflowError:
    return cls("camera head", "gone") if issubclass(cls, DeviceError) else cls("what happened")  # type: ignore[call-arg]


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_error_survives_pickling(cls: type[ArmflowError]):
    error = _make(cls)
    error.add_note("seen in worker 3")
    worker, session = Pipe()
    worker.send(error)
    copy = session.recv()
    assert type(copy) is cls
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_a_message_says_what_happened(cls: type[ArmflowError]):
    text = str(_make(cls))
    assert "gone" in text or "what happened" in text


def test_a_device_error_names_the_device():
    error = errors.StaleReading("camera head", "newest frame is 0.40 s old")
    assert error.device == "camera head"
    assert str(error) == "camera head: newest frame is 0.40 s old"


def test_a_safety_stop_and_an_instruction_keep_their_text():
    assert SafetyStop("too fast").reason == "too fast"
    assert OperatorNeeded("close the box").instruction == "close the box"
