"""Every language is prepared as English and Chinese are: the shipped translations of one text, and single traps."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("datatrove")
pytest.importorskip("py3langid")

from benchmarks.languages import Documents, documents, rows, table
from data_prep.corpus.fit import LEAST_SHARE, fitting_languages, measure_fit
from data_prep.corpus.words import Words
from data_prep.text.clean_rules import PRESETS, Text, judge
from data_prep.text.languages.identify import Assumed, Guess, code_of, excerpt, identifier
from data_prep.text.languages.rules import known_languages
from data_prep.text.scripts import BURMESE, HAN, JAPANESE, KHMER, THAI, UNIT, WORD, Script, script_of
from data_prep.text.shingles import shingles

PROSE = PRESETS["prose"]
DATA_PAGE = Path(__file__).parents[2] / "docs/data.md"


@pytest.fixture(scope="module")
def texts() -> Documents:
    return documents()


def test_the_table_of_languages_is_what_the_code_does(texts: Documents) -> None:
    found = rows(texts)
    lines = table(found).splitlines()
    written = [line for line in DATA_PAGE.read_text().splitlines() if line in lines]
    assert written == lines, "run `python -m benchmarks.languages` and put its table into docs/data.md"
    for language, row in found.items():
        assert row.kept == row.documents, language
        assert row.copies_found >= 0.75 * row.documents and row.false_copies == 0, language
        assert row.lost_characters == 0 and row.with_added_words >= row.characters_per_token, language


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("A text in English with 人 in it", None),
        ("人人生而自由，在尊严和权利上一律平等", HAN),
        ("すべての人間は、生まれながらにして自由であり", JAPANESE),
        ("大日本帝国憲法の第一条から第四条", JAPANESE),
        ("มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกัน", THAI),
        ("មនុស្សទាំងអស់កើតមកមានសេរីភាព", KHMER),
        ("လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့်", BURMESE),
        ("सभी मनुष्यों को गौरव", None),
        ("", None),
    ],
)
def test_the_script_of_a_text(text: str, script: Script | None) -> None:
    assert script_of(text) is script


def test_a_word_keeps_its_marks() -> None:
    words = "सभी मनुष्यों को অধিকার உரிமைகள் không không's bình-đẳng می\u200cخواهم"
    assert WORD.findall(words) == words.split()
    assert WORD.findall(unicodedata.normalize("NFD", words)) == unicodedata.normalize("NFD", words).split()
    assert UNIT.findall("ใน 2024 ปี a1") == ["ใ", "น", "2024", "ป", "ี", "a1"]
    assert Words().word_tokenize("सभी मनुष्यों, को।") == ["सभी", "मनुष्यों", ",", "को", "।"]
    assert Words().sent_tokenize("सभी को। और मैं। မြန်မာ။ จบ") == ["सभी को।", "और मैं।", "မြန်မာ။", "จบ"]


def test_letters_written_as_several_characters_are_the_same(texts: Documents) -> None:
    for text in texts["vi"]:
        one, other = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
        assert one != other
        assert shingles(one).tolist() == shingles(other).tolist()
        assert judge(Text(other, Assumed("vi")), PROSE).broken is None
    assert all(
        unicodedata.is_normalized("NFC", word) for rules in known_languages().values() for word in rules.stop_words
    )


def without_spaces(text: str) -> str:
    """The text as one run of letters."""
    return re.sub(r"\s+", "", text)


def test_one_shingle_holds_as_much_in_every_script(texts: Documents) -> None:
    """A changed letter concerns five words or so: about the same share of a text in any language."""
    shares = {}
    for language, (text, *_) in texts.items():
        middle = next(place for place in range(len(text) // 2, len(text)) if text[place].isalpha())
        changed = text[:middle] + ("x" if text[middle] != "x" else "y") + text[middle + 1 :]
        one, other = (set(shingles(each).tolist()) for each in (text, changed))
        words = len(WORD.findall(text)) + (
            script.per_word and len(without_spaces(text)) / script.per_word if (script := script_of(text)) else 0
        )
        shares[language] = (1 - len(one & other) / len(one | other)) * words
    assert max(shares.values()) < 3 * min(shares.values()), shares


def test_a_language_that_the_identifier_takes_for_another_is_not_lost(texts: Documents) -> None:
    """py3langid takes Ilocano for Tagalog and Balinese for Javanese; both are kept, alone and beside those."""
    identify = identifier(None)
    for language, neighbour in (("ilo", "tl"), ("ban", "jv")):
        assert [identify(text)[0].language for text in texts[language]].count(neighbour) > len(texts[language]) / 2
        assert all(judge(Text(text, identify), PROSE).broken == "no stop words" for text in texts[language][:3])
        for source in (texts[language], [*texts[language], *texts[neighbour]]):
            trusted = fitting_languages(measure_fit(source, identify))
            judged = [judge(Text(text, identify, trusted), PROSE) for text in source]
            assert neighbour not in trusted and {each.broken for each in judged} == {None}
            assert "no stop words" in judged[0].unknown
        assert all(judge(Text(text, Assumed(language)), PROSE).broken is None for text in texts[language])


def keywords(each: Sequence[str], language: str, generator: random.Random) -> str:
    """A list of words of a language without those that hold sentences together."""
    words = [word for text in each for word in WORD.findall(text) if len(word) > 3]
    kept = [word for word in words if word.lower() not in known_languages()[language].stop_words]
    return " ".join(generator.sample(kept, 80))


@pytest.mark.parametrize("language", ["sw", "ru", "ar", "hi", "bn", "tl"])
def test_lists_of_words_still_go(texts: Documents, language: str) -> None:
    """Of Indonesian ones half pass as Malay, whose frequent words are Indonesian ones of less frequency."""
    generator, identify = random.Random(1), identifier(None)
    lists = [keywords(texts[language], language, generator) for _ in range(10)]
    source = [*texts[language] * 10, *lists]
    trusted = fitting_languages(measure_fit(source, identify))
    assert language in trusted
    dropped = [text for text in source if judge(Text(text, identify, trusted), PROSE).broken]
    assert len(set(dropped) & set(lists)) >= 8 and set(dropped) <= set(lists)


def test_the_share_from_which_on_a_language_is_believed() -> None:
    assert fitting_languages({"id": (100, round(LEAST_SHARE * 100)), "jv": (100, round(LEAST_SHARE * 100) - 1)}) == {
        "id"
    }
    assert fitting_languages({"en": (1, 1), "tl": (1, 0)}) == {"en"}
    short = ["Kurzer Text ohne jede Aussage."] * 5
    assert measure_fit(short, Assumed("de")) == {}  # too short to tell


def test_codes_and_excerpts() -> None:
    labels = {
        "__label__zho_Hans": "zh",
        "zh-CN": "zh",
        "__label__en": "en",
        "ind_Latn": "ind",
        "arb_Arab": "ar",
        "EN": "en",
    }
    assert {label: code_of(label) for label in labels} == labels
    assert excerpt("a\n b") == "a b" and len(excerpt("ab " * 9999)) < 1100
    assert Assumed("ilo")("") == (Guess("ilo", 1.0),)
    assert {"id", "ind", "th", "km", "ilo", "eng", "cmn"} <= set(known_languages())
