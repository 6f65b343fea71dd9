"""How alike two texts are, from 0 to 1, by the field's own libraries.

OpenAI names the measures and rapidfuzz, but no settings; these are the libraries' usual ones. They are imported when
first needed: some take a second.
"""

from __future__ import annotations

from residency.errors import GraderError


def check_metric(metric: str) -> None:
    """Raises GraderError where a measure needs data that is not on this machine."""
    if metric == "meteor":
        from nltk.corpus import wordnet  # type: ignore[import-untyped]

        try:
            wordnet.ensure_loaded()
        except LookupError:
            raise GraderError(
                "meteor needs the WordNet dictionary, which is not on this machine",
                code="missing_dictionary",
                hint="fetch it once with `python -m nltk.downloader wordnet`, or use rouge_l or gleu",
            ) from None


def similarity(metric: str, text: str, reference: str) -> float:
    """`metric` is one of OpenAI's `evaluation_metric` names."""
    if metric == "fuzzy_match":
        return fuzzy_match(text, reference)
    if metric == "bleu":
        return bleu(text, reference)
    if metric == "gleu":
        return gleu(text, reference)
    if metric == "meteor":
        return meteor(text, reference)
    return rouge(metric, text, reference)


def fuzzy_match(text: str, reference: str) -> float:
    """rapidfuzz's normalised insertion-deletion similarity over characters."""
    from rapidfuzz import fuzz

    return fuzz.ratio(text, reference) / 100


def bleu(text: str, reference: str) -> float:
    """Sentence BLEU with sacrebleu's defaults (13a tokens, exponential smoothing, effective order)."""
    import sacrebleu

    return min(float(sacrebleu.sentence_bleu(text, [reference]).score) / 100, 1.0)


def gleu(text: str, reference: str) -> float:
    """Google's GLEU: the smaller of n-gram precision and recall, n = 1 to 4 (arXiv 1609.08144, section 8)."""
    from nltk.tokenize import wordpunct_tokenize  # type: ignore[import-untyped]
    from nltk.translate.gleu_score import sentence_gleu  # type: ignore[import-untyped]

    words, expected = wordpunct_tokenize(text), wordpunct_tokenize(reference)
    if not words or not expected:
        return float(words == expected)
    return float(sentence_gleu([expected], words))


def meteor(text: str, reference: str) -> float:
    """METEOR with stems and WordNet synonyms (Lavie and Agarwal 2007), by NLTK."""
    check_metric("meteor")
    from nltk.tokenize import wordpunct_tokenize
    from nltk.translate.meteor_score import single_meteor_score  # type: ignore[import-untyped]

    return float(single_meteor_score(wordpunct_tokenize(reference), wordpunct_tokenize(text)))


def rouge(metric: str, text: str, reference: str) -> float:
    """ROUGE F1 by Google's rouge-score, without stemming; `rouge_1` … `rouge_5`, `rouge_l`."""
    from rouge_score.rouge_scorer import RougeScorer

    kind = metric.replace("_", "").replace("rougel", "rougeL")
    return float(RougeScorer([kind]).score(reference, text)[kind].fmeasure)
