import pytest

from residency.config.graders import TextSimilarity
from residency.errors import GraderError
from residency.graders.score import check_grader
from residency.graders.similarity import similarity

MEASURES = ["fuzzy_match", "bleu", "gleu", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"]
SENTENCE = "the quick brown fox jumps over the lazy dog"


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_runs_from_0_for_nothing_alike_to_1_for_equal(measure: str) -> None:
    assert similarity(measure, SENTENCE, SENTENCE) == pytest.approx(1.0)
    assert similarity(measure, "qqqq", "zzzz") == pytest.approx(0.0)
    between = similarity(measure, "the quick brown fox jumps over a lazy cat", SENTENCE)
    assert 0 < between < 1
    assert 0 <= similarity(measure, "", SENTENCE) < 0.01
    assert 0 <= similarity(measure, SENTENCE, "") < 0.01


def test_known_values() -> None:
    assert similarity("fuzzy_match", "kitten", "sitting") == pytest.approx(8 / 13)
    assert similarity("rouge_1", "a b c", "a b d") == pytest.approx(2 / 3)
    assert similarity("rouge_l", "c a b", "a b d") == pytest.approx(2 / 3)
    assert similarity("gleu", "a b", "a b c") == pytest.approx(3 / 6)


def test_meteor_without_its_dictionary_says_how_to_get_it() -> None:
    from nltk.data import find

    try:
        find("corpora/wordnet")
    except LookupError:
        with pytest.raises(GraderError, match="WordNet") as caught:
            check_grader(TextSimilarity(evaluation_metric="meteor"))
        assert "nltk.downloader" in (caught.value.hint or "")
    else:
        assert similarity("meteor", SENTENCE, SENTENCE) == pytest.approx(1.0, abs=0.01)
