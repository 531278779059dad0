"""What a terminal shows: stages of a run, to which each second belongs once, and tables."""

from __future__ import annotations

import threading
import time

from tfft.console.profile import format_stages, profiling, stage


@stage("inner")
def inner(seconds: float) -> None:
    time.sleep(seconds)


def test_seconds_of_a_stage_leave_out_those_inside_of_it():
    with profiling() as profile:
        with stage("outer"):
            inner(0.2)
            inner(0.1)
        time.sleep(0.1)
    assert list(profile.seconds) == ["outer", "inner"]
    assert profile.seconds["inner"] >= 0.3 > 10 * profile.seconds["outer"]
    assert profile.stages["other"] >= 0.1


def test_a_stage_that_fails_counts_and_ends():
    with profiling() as profile:
        try:
            with stage("failing"):
                inner(0.1)
                raise ValueError
        except ValueError:
            pass
        with stage("next"):
            time.sleep(0.1)
    assert set(profile.seconds) == {"failing", "inner", "next"}
    assert profile.seconds["next"] >= 0.1 > profile.seconds["failing"]


def test_an_inner_profile_is_the_outer_one_and_nothing_is_measured_outside():
    inner(0.0)
    with profiling() as outer:
        with profiling() as same:
            inner(0.0)
        assert same is outer
    with profiling() as another:
        pass
    assert list(outer.seconds) == ["inner"]
    assert not another.seconds


def test_other_threads_are_not_counted():
    with profiling() as profile, stage("waiting"):
        thread = threading.Thread(target=inner, args=(0.1,))
        thread.start()
        thread.join()
    assert list(profile.seconds) == ["waiting"]
    assert profile.seconds["waiting"] >= 0.1


def test_the_table_has_shares_and_the_total():
    text = format_stages({"open the backbone": 1.5, "other": 0.5})
    assert "open the backbone" in text
    assert "75%" in text
    assert "2.0" in text


def test_a_table_is_text_in_a_notebook_too(monkeypatch):
    import rich.console
    import rich.table

    from tfft.console.tables import render

    table = rich.table.Table("block")
    table.add_row("stem")
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    assert "stem" in render(table)
