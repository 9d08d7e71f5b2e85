"""The session's state machine, for a few seconds; `./scripts/stress` runs it for as long as asked."""

from tests.stress.session_machine import SessionMachine

TestSessionMachine = SessionMachine.TestCase
