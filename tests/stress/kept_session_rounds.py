"""Sessions whose processes are killed at random moments, against the same sessions undisturbed."""

import random
import time

from tests.rigs.session_custody import Custodian
from tests.rigs.session_lives import Outcome, SessionLives
from tests.rigs.session_script import Script
from tests.rigs.vhost_user_client import no_fd_left
from tests.stress.counts import counts

LENGTH = 60
MAX_PAUSE_S = 0.0005


def never(_: Custodian) -> bool:
    """Nobody is killed but at a crash point."""
    return False


def check_same(disturbed: Outcome, undisturbed: Outcome) -> None:
    """The front end and the device cannot tell one from the other."""
    assert disturbed.replies == undisturbed.replies
    assert disturbed.effects == undisturbed.effects
    assert disturbed.notes == undisturbed.notes


def check_cut_short(disturbed: Outcome, undisturbed: Outcome) -> None:
    """The front end has hung up in the middle: nothing but a beginning has happened, and then the reset."""
    assert disturbed.replies == undisturbed.replies[: len(disturbed.replies)]
    *effects, last = disturbed.effects
    assert last[0] == "reset"
    assert effects == undisturbed.effects[: len(effects)]
    assert disturbed.notes == undisturbed.notes[: len(disturbed.notes)]


def disturb(lives: SessionLives, seed: int) -> None:
    """One session, its processes killed as often as the seed says."""
    chosen = random.Random(seed)
    script = Script(seed, LENGTH)
    chance = chosen.choice((0.02, 0.1, 0.3))

    def is_to_die(_: Custodian) -> bool:
        if chosen.random() >= chance:
            return False
        time.sleep(chosen.uniform(0, MAX_PAUSE_S))  # so that it is anywhere between two events
        return True

    try:
        with no_fd_left():
            undisturbed = lives.run(script, seed, never)
            disturbed = lives.run(script, seed, is_to_die)
            replies_wanted = chosen.randrange(len(undisturbed.replies))
            cut_short = lives.run(script, seed, is_to_die, replies_wanted)
        check_same(disturbed, undisturbed)
        assert disturbed.deaths
        check_cut_short(cut_short, undisturbed)
    finally:
        script.close()
    counts.update(requests=len(script.messages), kills=disturbed.deaths + cut_short.deaths, examples=1)
