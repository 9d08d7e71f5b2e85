"""The control API's state machine, for a few seconds; `./scripts/stress` runs it for as long as asked."""

from tests.stress.control_machine import ControlMachine

TestControlMachine = ControlMachine.TestCase
