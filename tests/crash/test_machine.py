"""Kills and requests in any order, for a few seconds; `./scripts/stress` runs it for as long as asked."""

from tests.stress.engine_life import EngineLife

TestEngineLife = EngineLife.TestCase
