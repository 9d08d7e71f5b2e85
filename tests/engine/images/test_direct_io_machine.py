"""DirectIoFile's state machine, for a few seconds; `./scripts/stress` runs it for as long as asked."""

from tests.stress.direct_io_machine import DirectIoMachine

TestDirectIoFile = DirectIoMachine.TestCase
