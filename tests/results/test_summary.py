"""What is read of run folders that several versions wrote."""

from sgl_specreason.results.summary import setting


def test_a_setting_that_there_was_not_yet_has_its_default() -> None:
    """Else every older run would seem to differ from every newer one."""
    assert setting({"temperature": 0.6}, "top_k") == -1
    assert setting({"temperature": 0.6}, "temperature") == 0.6
    assert setting({}, "a setting of a replay") is None
