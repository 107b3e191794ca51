"""What local calls were granted of a budget, and may go on by: together, whoever of them spent it."""

from dataclasses import replace

from farthing.ledger import Budget, Room
from farthing.ledger.purse import Purses, Share
from farthing.ledger.reservation import Extension, Hold

DAY = Room(Budget("b1", "budget", "global", "", "usd", "day", 100), 0, 0, 0)
KEY = Room(Budget("b2", "budget", "key", "k", "usd", "month", 1000), 0, 0, 0)
COUNT = Room(Budget("b3", "budget", "global", "", "tokens", "day", 5), 0, 0, 0)


def a_hold(name: str, granted: int, *rooms: Room, is_local: bool = True) -> Hold:
    return Hold(name, tuple((room, granted) for room in rooms), 10, is_lowered=False, is_local=is_local)


def opened(purses: Purses, hold: Hold) -> Share:
    purses.open(hold)
    share = purses.share(hold.reservation_id)
    assert share is not None
    return share


def test_what_one_overspends_the_others_do_not_have() -> None:
    purses = Purses()
    one = opened(purses, a_hold("1", 30, DAY))
    two = opened(purses, a_hold("2", 30, replace(DAY, reserved=30), KEY))
    other = opened(purses, a_hold("3", 5, KEY))
    one.spend(45)
    assert (one.room, two.room, other.room) == (15, 15, 35)
    one.spend(60)
    assert (one.room, two.room, other.room) == (0, 0, 35)
    purses.extend(a_hold("1", 30, DAY), Extension(40, (replace(DAY, reserved=60),)))
    assert (one.granted, one.room, two.room) == (70, 40, 35)  # and two no more than its key has


def test_room_in_the_ledger_is_nobodys_until_it_is_granted() -> None:
    purses = Purses()
    one = opened(purses, a_hold("1", 10, DAY))  # of 100
    one.spend(10)
    assert one.room == 0


def test_what_the_ledger_knows_is_not_forgotten_when_its_call_has_ended() -> None:
    purses = Purses()
    one, two = opened(purses, a_hold("1", 50, DAY)), opened(purses, a_hold("2", 50, replace(DAY, reserved=50)))
    one.spend(90)
    assert two.room == 10
    purses.close("1", [replace(DAY, used=90, reserved=50)])
    assert two.room == 10
    purses.extend(a_hold("2", 50, DAY), Extension(0, (replace(DAY, used=20, reserved=50),)))  # a day later, say
    assert two.room == 50


def test_what_the_ledger_will_hear_later_is_kept_until_this_process_ends() -> None:
    purses = Purses()
    opened(purses, a_hold("1", 50, DAY)).spend(70)
    purses.close("1", None)
    assert opened(purses, a_hold("2", 30, DAY)).room == 10
    purses.close("2", [DAY])
    opened(purses, a_hold("3", 50, DAY)).spend(40)  # less than it was granted
    purses.close("3", None)
    assert opened(purses, a_hold("4", 50, DAY)).room == 30


def test_only_dollars_of_local_calls_are_held() -> None:
    purses = Purses()
    for number, hold in enumerate([a_hold("1", 5, COUNT), a_hold("2", 5, DAY, is_local=False), a_hold("3", 5)]):
        purses.open(hold)
        assert purses.share(str(number + 1)) is None
        purses.close(hold.reservation_id, None)
    share = opened(purses, a_hold("4", 5, COUNT, DAY))
    assert share.granted == share.room == 5
    purses.close("4", [DAY])
    purses.close("4", [DAY])
    purses.extend(a_hold("4", 5, DAY), Extension(9, (DAY,)))  # too late
    assert purses.share("4") is None
    assert not purses._purses
