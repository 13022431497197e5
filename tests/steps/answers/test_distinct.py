"""Texts that say the same are told from those that do not."""

from __future__ import annotations

from raypipe.steps.answers.distinct import Distinct


def test_case_and_white_space_tell_no_texts_apart():
    met = Distinct()
    assert met.is_new("Deep  Learning")
    assert [met.is_new(text) for text in ("deep learning ", "Deep\nLEARNING", "deeplearning")] == [False, False, True]
    assert [met.is_new(text) for text in ("Straße", "STRASSE", "strasse", "Gasse")] == [True, False, False, True]


def test_what_is_blank_is_never_new():
    assert not any(Distinct().is_new(text) for text in ("", " \n"))
