"""The state machine of limits, for a few seconds; `./scripts/stress` runs it for as long as asked."""

from tests.stress.limit_machine import LimitMachine

TestLimitMachine = LimitMachine.TestCase
