"""How long the next run will take."""

from service.pace import LATEST, Pace


def test_the_quickest_of_the_last_runs_tells() -> None:
    pace = Pace()
    assert pace.seconds(10, unknown=7.0) == 7.0
    pace.observe(10, 1.0)
    pace.observe(10, 5.0)  # it was interrupted
    assert pace.seconds(20, unknown=7.0) == 2.0
    for _ in range(LATEST):
        pace.observe(10, 3.0)
    assert pace.seconds(20, unknown=7.0) == 6.0


def test_a_run_of_nothing_has_a_pace_too() -> None:
    pace = Pace()
    pace.observe(0, 1.0)
    assert pace.seconds(2, unknown=0.0) == 2.0
