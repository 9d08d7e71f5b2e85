"""The state machine of drives that come and go, for a few seconds; `./scripts/stress` runs it for longer."""

from tests.stress.drives_machine import DrivesMachine

TestDrivesMachine = DrivesMachine.TestCase
