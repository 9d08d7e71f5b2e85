"""scripts/stress: what it prints, and that a failure comes again with its seed."""

import re

import pytest
from hypothesis import Phase
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.stress import __main__ as stress
from tests.stress.counts import counts


class Toy(RuleBasedStateMachine):
    """A machine with a fault."""

    @rule(number=st.integers(0, 1000))
    def step(self, number: int) -> None:
        counts["rules"] += 1
        assert number < 50


def run_toy(seed: int) -> None:
    stress.run_machine(Toy, 50, seed, Phase.generate, Phase.shrink)


def test_a_failure_is_printed_in_its_shortest_form_and_comes_again(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(stress.MACHINES, "storm", run_toy)
    outputs = []
    for _ in range(2):
        assert stress.main(["--minutes=1", "--seed=7", "--machine=storm"]) == 1
        output, errors = capfd.readouterr()
        assert "state.step(number=50)" in errors + output
        assert "FAILED: seed 7; again: ./scripts/stress --seed=7 --machine=storm" in output
        outputs.append(re.findall(r"state\..*", errors + output))
    assert outputs[0] == outputs[1]


def test_each_round_has_the_next_seed_and_the_last_line_says_what_was_done(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    seeds: list[int] = []

    def run(seed: int) -> None:
        seeds.append(seed)
        counts["requests"] += 1
        if len(seeds) == 3:
            raise KeyboardInterrupt

    monkeypatch.setitem(stress.MACHINES, "storm", run)
    counts.clear()
    assert stress.main(["--seed=4", "--machine=storm"]) == 130
    assert seeds == [4, 5, 6]
    assert "3 requests, 0 rules, 0 examples, 0 kills, 0 faults, seed 6" in capfd.readouterr().out
