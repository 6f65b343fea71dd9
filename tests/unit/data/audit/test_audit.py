"""What the data doctor finds in a file, row by row, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from residency.data.audit.audit import Audit, audit, refuse, special_token_findings, with_findings
from residency.data.audit.findings import Finding
from residency.data.audit.table import table_of
from residency.errors import DataError
from tests.unit.data.audit.rows import DEEDS, PLACES, clean_rows, example, table
from tests.unit.data.audit.rows import table as table_of_rows

Rows = list[tuple[str, str]]


def lines(found: Audit, check: str) -> list[int]:
    return [origin.line for finding in found.findings if finding.check == check for origin in finding.rows]


def with_rows(*more: tuple[str, str]) -> tuple[Audit, int]:
    """The audit of clean rows and `more`, and the line of the first of those."""
    rows = clean_rows()
    return audit(table([*rows, *more])), len(rows) + 1


def test_clean_rows_lose_no_points() -> None:
    found = audit(table(clean_rows()))
    assert found.score == 100
    assert not [finding for finding in found.findings if finding.severity != "note"]


@pytest.mark.parametrize("mark", ["label", "kto_tag"])
def test_answers_marked_as_bad_are_named_and_cost_nothing(mark: str) -> None:
    """Rows for KTO read as prompt and completion would be learned alike, the bad ones too."""
    rows = [replace(example(line, *row), fields={mark: line % 3 > 0}) for line, row in enumerate(clean_rows(30), 1)]
    found = audit(table_of(rows))
    assert lines(found, "marked_bad") == list(range(3, 31, 3))
    assert found.score == 100
    text = [replace(example(line, *row), fields={mark: "no"}) for line, row in enumerate(clean_rows(30), 1)]
    assert not lines(audit(table_of(text)), "marked_bad")


def test_a_copy_is_named_and_the_row_it_repeats() -> None:
    prompt, answer = clean_rows()[4]
    found, line = with_rows((prompt.upper(), f"{answer}  "))
    assert lines(found, "exact_duplicates") == [line]
    assert list(map(str, found.findings[0].others)) == ["train.jsonl:5"]


def test_a_nearly_equal_row_joins_the_cluster_of_the_first() -> None:
    story = "the old lighthouse keeper walks down to the shore each evening and counts the boats that came home"
    rows = [(f"Retell this: {story}.", f"Every evening {story}."),
            (f"Retell this: {story} today.", f"Every evening {story}.")]  # fmt: skip
    found, line = with_rows(*rows)
    assert lines(found, "near_duplicates") == [line + 1]
    assert found.clusters[line] == line - 1


def test_of_near_copies_none_falls_on_another_side_of_a_split() -> None:
    short = [(f"Is {PLACES[n % 10]} {n} red colour", f"It does not seem {DEEDS[n % 8]}.") for n in range(200)]
    copies = [(prompt.replace(" red ", " red in "), answer) for prompt, answer in short]
    groups = audit(table([*short, *copies])).groups
    assert (groups[:200] == groups[200:]).all()


def test_a_dash_or_a_slip_that_two_rows_share_does_not_part_a_question_from_itself() -> None:
    asked = [
        (f"Describe the {place}", f"It is where you {deed}.") for place in PLACES for deed in DEEDS for _ in range(4)
    ]
    found, line = with_rows(*asked, ("The harbour - that is far away", "No, it is near."),
                            ("That the harbour is far away", "No, it is near."),
                            ("Tell of a quay", "A wall for ships."), ("Describe a quay", "Where ships lie."),
                            ("Dsecribe a quay", "It is of stone."), ("Dsecribe a lamp", "It is bright."))  # fmt: skip
    first = line - 1 + len(asked)
    assert found.groups[first + 1] == found.groups[first]
    assert found.groups[first + 4] == found.groups[first + 3]


def test_whatever_rows_the_check_names_together_stay_together_in_a_split() -> None:
    story = "the keeper of the lighthouse walks down to the shore and counts the boats that came home"
    rows = [(f"Retell this {n}: {story}{more}.", f"{answer} {story}.") for n in range(20)
            for more in ("", " today", " - and") for answer in ("Each evening", "Never", "They say")]  # fmt: skip
    found, _ = with_rows(*rows)
    row_of = {origin: row for row, origin in enumerate(found.table.origins(range(len(found.table))))}
    named = [(row_of[one], row_of[other]) for finding in found.findings for one, other
             in zip(finding.rows, finding.others, strict=False)]  # fmt: skip
    assert named
    assert all(found.groups[one] == found.groups[other] for one, other in named)


def test_rows_of_one_pattern_are_no_duplicates() -> None:
    """They differ in what fills the pattern: a number, or a word that changes in question and answer."""
    rows = [(f"Please set the brightness of the lamp in the {place} to {n} percent right now",
             f"The brightness of the lamp in the {place} is now {n} percent as you wished")
            for place in ("kitchen", "bedroom") for n in (10, 20, 30)]  # fmt: skip
    found, _ = with_rows(*rows)
    assert not lines(found, "near_duplicates")
    assert not lines(found, "contradictions")


@pytest.mark.parametrize(
    "again",
    [
        "Who wrote the novel about the white whale?",
        "who wrote the novel about the white whale",
        "Please tell me who wrote the novel about the white whale?",
        "WHO WROTE THE NOVEL ABOUT WHITE WHALE? Thanks!",
        "Hi, who wrote the novel about the whtie whale?",
    ],
)
def test_two_answers_to_one_question_contradict(again: str) -> None:
    found, line = with_rows(("Who wrote the novel about the white whale?", "That was Herman Melville, in 1851."),
                            (again, "Jane Austen published this book herself."))  # fmt: skip
    assert lines(found, "contradictions") == [line + 1]


def test_many_answers_to_one_question_are_variety_and_said() -> None:
    jokes = ["A duck walks into a bar.", "Two cats meet in the rain.", "My clock is always late.", "Knock, knock!"]
    found, line = with_rows(*[("Could you please tell me a joke?", joke) for joke in jokes])
    assert not lines(found, "contradictions")
    assert lines(found, "varied_answers") == [line + 1, line + 2, line + 3]
    assert {(one.severity, one.share) for one in found.findings if one.check == "varied_answers"} == {("note", None)}


def test_where_answers_agree_a_question_has_one_and_another_contradicts_it() -> None:
    found, line = with_rows(("When does the ferry leave?", "At nine in the morning."),
                            ("When does the ferry leave, please?", "It never does."),
                            ("Hi, when does the ferry leave?", "At nine in the morning, always."))  # fmt: skip
    assert lines(found, "contradictions") == [line + 1]
    labels = [("Is the message of the harbour master spam?", label) for label in ("spam", "ham", "other") * 2]
    assert not lines(with_rows(*labels)[0], "varied_answers")


@pytest.mark.parametrize(
    ("answers", "contradict"),
    [
        (("Yes.", "Most certainly."), False),
        (("Of course!", "Without a doubt."), False),
        (("Not at all.", "By no means."), False),
        (("Certainly.", "Certainly not."), True),
        (("Yes, it is.", "I doubt it."), True),
        (("Yes.", "In winter only."), True),
        (("Correct.", "Right of the door."), True),
    ],
)
def test_two_words_for_yes_do_not_contradict(answers: tuple[str, str], contradict: bool) -> None:
    found, line = with_rows(*[("Is the water of the harbour cold?", answer) for answer in answers])
    assert lines(found, "contradictions") == ([line + 1] if contradict else [])


def test_who_only_says_hello_states_nothing_and_that_is_said() -> None:
    found, line = with_rows(("Where is the harbour master?", "On the quay."), ("Where is the harbour master?", "Hey!"))
    assert not lines(found, "contradictions")
    assert lines(found, "varied_answers") == [line + 1]


@pytest.mark.parametrize("again", ["What is the capital of the island?", "whats the capital of the island"])
def test_a_contracted_question_is_the_same(again: str) -> None:
    found, line = with_rows(("What's the capital of the island?", "The old harbour."), (again, "There is none."))
    assert lines(found, "contradictions") == [line + 1]


def test_another_question_is_no_contradiction() -> None:
    found, _ = with_rows(("How do I switch the heating on?", "Press the red button."),
                         ("How do I switch the heating off?", "Turn the wheel to the left."),
                         ("How many wheels have 3 cars?", "Twelve."),
                         ("How many wheels have 4 cars?", "Sixteen."))  # fmt: skip
    assert not lines(found, "contradictions")


def test_a_slip_of_the_pen_in_a_short_question_makes_no_other_question() -> None:
    found, line = with_rows(("Do you have cousins?", "A few clones."), ("Do you have cousnis?", "Nobody at all."),
                            ("Where is Iceland?", "In the north."), ("Where is Ireland?", "In the west."))  # fmt: skip
    assert lines(found, "contradictions") == [line + 1]


def test_a_slip_is_found_among_many_questions_that_differ_in_that_word_alone() -> None:
    ends = ("dom", "ness", "ship", "ward", "less")
    words = [f"{one}{two}{end}" for one in ("bru", "cal", "dri", "fen", "gos") for two in ("tim", "ral", "pun", "lod")
             for end in ends]  # fmt: skip
    meanings = [(f"What does {word} mean?", f"Something like a {word[:-2]}er of number {n}.")
                for n, word in enumerate(words)]  # fmt: skip
    found, line = with_rows(
        *meanings, (f"What does {words[70][:4]}{words[70][5]}{words[70][4]}{words[70][6:]} mean?", "A bird.")
    )
    assert lines(found, "contradictions") == [line + len(words)]


def test_who_asks_whom_and_what_is_only_said_make_other_questions() -> None:
    found, _ = with_rows(("I am real", "How do I know?"), ("Am I real", "Naturally."),
                         ("Do you feel lucky", "Very much."), ("Do I feel lucky", "Ask yourself that."))  # fmt: skip
    assert not lines(found, "contradictions")


def test_signs_make_other_questions_and_other_rows() -> None:
    found, _ = with_rows(("What is 3 + 4?", "Seven."), ("What is 3 - 4?", "One below zero."),
                         ("Is 3 < 4 or is it not?", "It is."), ("Is 3 > 4 or is it not?", "It is."),
                         ("Who made C?", "Ritchie."), ("Who made C++?", "Stroustrup."))  # fmt: skip
    assert not any(lines(found, check) for check in ("contradictions", "exact_duplicates", "near_duplicates"))


def test_system_texts_make_other_rows() -> None:
    rows = [example(1, "Where is it?", "In Rome.", "Answer briefly."), example(2, "Where is it?", "Nowhere.", "Lie.")]
    from residency.data.audit.table import table_of

    found = audit(table_of(rows))
    assert not lines(found, "contradictions")


def test_test_rows_among_the_training_rows_are_leaks() -> None:
    rows = clean_rows()
    passage = "In the spring of the third year the miller sold his wheel to the abbey for a sack of silver coins"
    test: Rows = [rows[7], (f"Summarise: {passage}", "The miller sold his wheel."), ("What is new?", "Nothing.")]
    found = audit(table([*rows, (f"Shorten this text for me. {passage}. Thank you.", "A sale.")]), table_of_rows(test))
    assert lines(found, "leaks") == [8, len(rows) + 1]
    assert [finding.share for finding in found.findings if finding.check == "leaks"] == [2 / 3]


def test_another_task_in_like_words_is_no_leak() -> None:
    frame = "Say what the gate named {} does. It acts on the target qubit, which is given by its number, in any circuit"
    test: Rows = [(frame.format("flip"), "It exchanges zero and one."), (frame.format("swap"), "Leaves it as it is.")]
    found = audit(table([*clean_rows(), (frame.format("rest"), "Leaves it as it is.")]), table_of_rows(test))
    assert [origin.line for origin in found.test.origins(found.leaks[:, 1] - len(found.table))] == [2]  # type: ignore[union-attr]


def test_a_short_test_question_within_other_words_is_a_leak_where_the_answer_is_the_same() -> None:
    more = [("Here is a task from my notes. How much fun?", "A lot of fun."), ("How much fun was it?", "None.")]
    found = audit(table([*clean_rows(), *more]), table_of_rows([("How much fun?", "A lot of fun.")]))
    assert lines(found, "leaks") == [len(clean_rows()) + 1]


def test_a_test_question_that_was_somebodys_answer_is_no_leak_and_in_plain_text_it_is() -> None:
    said = "I have not yet been programmed to feel anger about anything at all"
    test = table_of_rows([(f"{said}.", "Why not?")])
    assert not lines(audit(table([*clean_rows(), ("Are you angry?", f"{said}.")]), test), "leaks")
    assert lines(audit(table([*clean_rows(), ("", f"He said: {said}.")]), test), "leaks") == [len(clean_rows()) + 1]


def test_secrets_personal_data_and_residue_are_named() -> None:
    found, line = with_rows(
        ("Log in with ghp_16C7e42F292c6912E7710c838347Ae178B4a please.", "Done, you are in now."),
        ("Whom do I ask about it?", "Write to maria.lopez@telefonica.es about it."),
        ("### Instruction:\nName a colour.\n\n### Response:", "The colour blue is one."),
    )
    assert lines(found, "secrets") == [line]
    assert lines(found, "personal_data") == [line + 1]
    assert lines(found, "residue") == [line + 2]


def test_a_secret_that_a_manual_shows_is_said_to_look_like_an_example() -> None:
    shown = "Delete the volume: name: {}, api_token: e31060a7-21fc-e277-6240-25983c6c4592"
    real = "Done, api_token: 9b1dfe04-77c2-41ab-93c5-0c1d2e8ba0f6 still works."
    found, line = with_rows(("How do I delete foo?", shown.format("foo")), ("How do I delete v3?", shown.format("v3")),
                            ("How do I log in?", "With the password: Cisco123 at every switch."),
                            ("How did you log in?", "With the password: dqTz83-ynwp, as ever."),
                            *[(f"How did it go on day {n}?", real) for n in range(3)])  # fmt: skip
    assert lines(found, "example_secrets") == [line, line + 1, line + 2]
    assert lines(found, "secrets") == [line + 3, line + 4, line + 5, line + 6]
    assert {one.severity for one in found.findings if one.check == "example_secrets"} == {"note"}


def test_a_special_token_that_is_talked_about_is_no_residue() -> None:
    found, line = with_rows(("Which token ends a text?", 'It is "</s>", and `[CLS]` begins one here.'),
                            ("Which token ends a line?", "None does that.</s>"))  # fmt: skip
    assert lines(found, "residue") == [line + 1]


def test_an_answer_that_stops_in_the_middle_is_named() -> None:
    found, line = with_rows(("Why is it crowded?", "The market is crowded on Friday because the fishers and the"))
    assert line in lines(found, "cut_off")


def test_a_rare_format_is_a_minority() -> None:
    found, line = with_rows(("Which bridge is old?", '{"bridge": "the old one"}'))
    assert lines(found, "format_minority") == [line]
    found, _ = with_rows(("Which bridge is old? Answer in JSON.", '{"bridge": "the old one"}'))
    assert lines(found, "format_minority") == []


def test_a_courtesy_before_the_answer_is_a_format_and_a_courtesy_alone_is_an_answer() -> None:
    short = [(f"Is stop {n} far from the {PEOPLE_WORDS[n % 7]} desk?", "Certainly.") for n in range(40)]
    found, line = with_rows(("Which bridge is old?", "Sure! The one in the harbour is old."), *short)
    assert lines(found, "format_minority") == [line]


def test_in_a_short_question_another_word_makes_another_row() -> None:
    found, _ = with_rows(("Is spring a season?", "Yes, a season of the year."),
                         ("Is autumn a season?", "Yes, a season of the year."))  # fmt: skip
    assert not lines(found, "near_duplicates")


def test_rows_of_one_pattern_with_short_answers_of_their_own_are_no_duplicates() -> None:
    text = "Parameters: val, a float. forward, a bool: see set_size_inches, which sets both of them at once for all."
    found, _ = with_rows((f"Summarise: set_figheight. {text}", "Sets the height of the figure in inch."),
                         (f"Summarise: set_figwidth. {text}", "Sets the width of the figure in inch."))  # fmt: skip
    assert not lines(found, "near_duplicates")


def test_labels_out_of_balance_are_told() -> None:
    rows = [(f"Is message {n} about {PEOPLE_WORDS[n % 7]} spam?", "spam" if n % 12 == 0 else "ham") for n in range(240)]
    found = audit(table(rows))
    message = next(finding.message for finding in found.findings if finding.check == "label_balance")
    assert "'ham' is given 220 times, 'spam' 20" in message


PEOPLE_WORDS = ["money", "lunch", "holidays", "tickets", "parcels", "meetings", "invoices"]


def test_many_refusals_are_a_warning() -> None:
    rows = clean_rows()
    refused: Rows = [(prompt, "I'm sorry, but I can't help with that.") for prompt, _ in rows[:60]]
    found = audit(table([*refused, *rows[60:]]))
    assert {f.severity for f in found.findings if f.check == "refusals"} == {"warning"}


def test_end_tokens_of_the_model_inside_text_are_an_error() -> None:
    rows = table([*clean_rows(10), ("What?", "This.<|im_end|>"), ("Who?", "See <|file|>.")])
    more = special_token_findings(rows, {"<|im_end|>", "<|file|>"}, frozenset({"<|im_end|>"}))
    assert [(one.severity, one.rows[0].line) for one in more if one] == [("error", 11), ("warning", 12)]
    with pytest.raises(DataError, match="special_tokens"):
        refuse(with_findings(audit(rows), more), strict=False)


def test_warnings_refuse_only_where_strict() -> None:
    found, _ = with_rows(clean_rows()[0])
    refuse(found, strict=False)
    with pytest.raises(DataError, match="exact_duplicates"):
        refuse(found, strict=True)


def test_every_lost_point_has_rows() -> None:
    found, _ = with_rows(*clean_rows()[:20], ("A", "<|im_end|>"))
    record = found.as_record()
    assert record["score"] == round(100 - sum(one["points"] for one in record["findings"]))
    assert all(one["rows"] for one in record["findings"] if one["points"])


def test_the_record_says_what_the_first_rows_say_and_nothing_private() -> None:
    found, line = with_rows(("Log in with ghp_16C7e42F292c6912E7710c838347Ae178B4a please.", "Done, you are in now."))
    assert found.as_record()["said"][f"train.jsonl:{line}"] == "Log in with [SECRET] please. -> Done, you are in now."


def test_one_row_is_enough() -> None:
    assert audit(table([("Hello", "Hi.")])).score == 100


def test_texts_without_words_are_compared_as_they_stand() -> None:
    found = audit(table([("?", "!"), ("?", "..."), ("-", ""), ("?", "!")]))
    assert lines(found, "exact_duplicates") == [4]
    assert not lines(found, "near_duplicates")
    found = audit(table([("Was the film any good in the end?", "\N{THUMBS UP SIGN}"),
                         ("Was the film any good in the end today?", "\N{THUMBS DOWN SIGN}")]))  # fmt: skip
    assert not lines(found, "near_duplicates")


def test_a_finding_is_short_in_json() -> None:
    found = audit(table([("Hello there", "Hi.")] * 3000))
    record = next(one for one in found.as_record()["findings"] if one["check"] == "exact_duplicates")
    assert (record["num_rows"], len(record["rows"])) == (2999, 1000)
    assert isinstance(found.findings[0], Finding)
