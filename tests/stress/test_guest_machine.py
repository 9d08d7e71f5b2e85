"""The hostile guest's state machine, for a few seconds; `./scripts/stress` runs it for as long as asked."""

from tests.stress.guest_machine import GuestMachine

TestGuestMachine = GuestMachine.TestCase
