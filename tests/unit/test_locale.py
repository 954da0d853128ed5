"""Two languages, from one catalogue: what is said in one can be said in the other, by whoever looks."""

from __future__ import annotations

import copy
import pickle
import string
from pathlib import Path
from unicodedata import east_asian_width

import pytest

import nbloader
from nbloader import LoadOptions, OptionError
from nbloader._text.catalogue import LOCALES, Text, in_locale, locale, nearest, speak, text, texts
from nbloader._text.units import columns, seconds_text, sentences, size_text


def placeholders(written: str) -> set[tuple[str, str]]:
    return {(name, form or "") for _, name, form, _ in string.Formatter().parse(written) if name is not None}


@pytest.mark.parametrize("language", LOCALES[1:])
def test_the_catalogues_have_the_same_keys_and_placeholders(language: str) -> None:
    english, other = texts("en"), texts(language)
    assert {group: list(keys) for group, keys in other.items()} == {
        group: list(keys) for group, keys in english.items()
    }
    for group, keys in english.items():
        for key, written in keys.items():
            assert placeholders(other[group][key]) == placeholders(written), (group, key)
            assert other[group][key].strip() or not written.strip(), (group, key)


def test_korean_says_what_users_of_the_tool_know() -> None:
    speak("ko")
    try:
        assert text("message", "loading_tokenizer") == "토크나이저 로드 중…"
        assert text("doing", "config") == "모델 구성 로드 중…"
        assert text("message", "loading_model") == "체크포인트 샤드 로드 중…"
        assert text("message", "model_loaded") == "모델 로드 완료"
        assert text("message", "moving_to_device", device="cuda:0") == "모델을 cuda:0로 이동"
        assert text("message", "metadata_extracted") == "메타데이터 추출 완료"
        assert text("terminal", "error", kind="SourceError", code="x", message="x").startswith("❌ 오류:")
    finally:
        speak(None)


def test_columns_are_straight_in_korean_too() -> None:
    speak("ko")
    try:
        lines = columns("part", dict.fromkeys(texts("ko")["part"], "|"))
    finally:
        speak(None)
    columns_before = {sum(2 if east_asian_width(letter) == "W" else 1 for letter in line) for line in lines}
    assert len(columns_before) == 1


@pytest.mark.parametrize(
    ("size", "said"), [(999, "999 B"), (999_499, "999 kB"), (999_600_000, "1.00 GB"), (9_996_000, "10.0 MB")]
)
def test_sizes_have_three_figures(size: int, said: str) -> None:
    assert size_text(size) == said


def test_what_was_said_can_be_said_in_another_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    said = text("line", "part", first=text("detail", "none"), then=seconds_text(1.5))
    assert (said, in_locale(said, "ko")) == ("none · 1.5 s", "없음 · 1.5초")
    sent = in_locale({"stages": [{"detail": said, "started": 1.0}], "other": "as it is"}, "ko")
    assert sent == {"stages": [{"detail": "없음 · 1.5초", "started": 1.0}], "other": "as it is"}
    assert isinstance(said, Text)
    assert said.in_locale("ko").in_locale("en") == said
    # What goes to a page is plain: marimo drops what is more than a string.
    assert type(sent["stages"][0]["detail"]) is str
    assert in_locale(seconds_text(125), "ko") == "2분 5초"
    for copied in (copy.deepcopy(said), copy.copy(said), pickle.loads(pickle.dumps(said))):
        assert (copied, in_locale(copied, "ko")) == (said, in_locale(said, "ko"))


@pytest.mark.parametrize(
    ("environment", "spoken"),
    [
        ({"LANG": "ko_KR.UTF-8"}, "ko"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({}, "en"),
        ({"LANG": "ko_KR.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "C", "LC_MESSAGES": "ko_KR"}, "ko"),
        ({"LC_ALL": "", "LANG": "ko"}, "ko"),
    ],
)
def test_the_environment_says_which(environment: dict[str, str], spoken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert locale() == spoken


def test_a_browser_says_which() -> None:
    assert [nearest(language) for language in ("ko", "ko-KR", "en-GB", "fr", "")] == ["ko", "ko", "en", "en", "en"]


def test_a_language_that_there_is_not_is_refused() -> None:
    with pytest.raises(OptionError, match="locale='fr'"):
        LoadOptions(locale="fr")


def test_sentences_are_said_in_another_language_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    said = sentences("As it is.", "", text("hint", "later"), text("hint", "load_again"))
    assert said == "As it is. Try again later. Load the model again."
    assert in_locale(said, "ko") == "As it is. 나중에 다시 시도하세요. 모델을 다시 로드하세요."
    assert sentences() == ""


def test_an_error_is_told_in_the_language_that_was_chosen(tmp_path: Path) -> None:
    job = nbloader.start(tmp_path, locale="ko")
    with pytest.raises(nbloader.CheckpointError, match="transformers 체크포인트가 아닙니다"):
        job.result()
    assert job.state.error is not None
    assert in_locale(job.state.error.hint, "en").startswith("Pass the folder that save_pretrained() wrote")


def test_times_are_rounded_as_the_page_rounds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """js/tests/format.test.ts has the same."""
    monkeypatch.setenv("LC_ALL", "C")
    shown = [str(seconds_text(seconds)) for seconds in (0.0005, 0.9994, 0.9996, 2.55, 2.549, 99.95, 120.5)]
    assert shown == ["1 ms", "999 ms", "1.0 s", "2.6 s", "2.5 s", "1 min 40 s", "2 min 1 s"]
