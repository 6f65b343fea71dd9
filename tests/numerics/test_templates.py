"""What is trained is what is served, for each family of chat templates.

The templates below are written here to behave like their families; the tokenizer is a real byte-level BPE, trained on
the spot. Every test states one thing a user relies on about which tokens carry loss and what the model is asked.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residency.data.messages import Example, Message, Origin, Rendered
from residency.data.render import Renderer, renderer_for
from residency.data.templates import NAMED
from residency.errors import DataError, TemplateError

GEMMA = """{{ bos_token }}
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}
{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim + '<end_of_turn>\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

# The system text goes to the last question, and only while that question is the last message.
MISTRAL = """{%- if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set turns = messages[1:] %}
{%- else %}{% set turns = messages %}{% endif %}{{- bos_token }}
{%- for m in turns %}
{%- if m.role == 'user' %}
{{- '[INST] ' + (system + '\n\n' if system and loop.last else '') + m.content + '[/INST]' }}
{%- elif m.role == 'tool' %}{{- '[TOOL_RESULTS] ' + m.content + '[/TOOL_RESULTS]' }}
{%- elif m.tool_calls %}
{{- '[TOOL_CALLS] [' }}{% for c in m.tool_calls %}{{ c.function | tojson }}{% endfor %}{{ ']' + eos_token }}
{%- else %}{{- ' ' + m.content | trim + eos_token }}{% endif %}
{%- endfor %}"""

# Earlier turns lose their thinking; the last one always shows some.
QWEN3 = """{%- if tools %}{{ '<|im_start|>system\n' + tools | tojson + '<|im_end|>\n' }}{% endif %}
{%- set ns = namespace(last=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{%- set content = m.content.split('</think>')[-1].lstrip('\n') %}
{%- set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\n') if '</think>' in m.content else '' %}
{{- '<|im_start|>assistant\n' }}
{%- if loop.index0 > ns.last and (loop.last or thought) %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}
{{- content }}
{%- for c in m.tool_calls or [] %}{{ '<tool_call>' + c.function | tojson + '</tool_call>' }}{% endfor %}
{{- '<|im_end|>\n' }}
{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

PHI3 = """{%- for m in messages %}{{- '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"""

# No control token between the header and the answer, so that the two can merge.
PLAIN = """{%- for m in messages %}{{- m.role + ':' + m.content + eos_token }}{% endfor %}
{%- if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"""

FAMILIES = {
    "chatml": (NAMED["chatml"].jinja, "<|im_end|>"),
    "llama3": (NAMED["llama3"].jinja, "<|eot_id|>"),
    "gemma": (GEMMA, "<end_of_turn>"),
    "mistral": (MISTRAL, "</s>"),
    "qwen3": (QWEN3, "<|im_end|>"),
    "phi3": (PHI3, "<|end|>"),
    "plain": (PLAIN, "</s>"),
}
SPECIAL = [
    *("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "[TOOL_CALLS]", "<|user|>", "<|assistant|>", "<|end|>"),
]
CORPUS = [
    "user assistant system model question answer: turn on the kitchen lights, please.\n\n",
    '{"intent": "HassTurnOn", "name": "kitchen"}\n\n\n and the living room is warm  today',
] * 30


@functools.cache
def small_tokenizer(template: str | None, bos: str | None = "<s>", kind: str = "bytes") -> Any:
    """`bytes` splits as Llama 3 does; `first` and `always` mark spaces as SentencePiece does, and put one in front."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    words = Regex(r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    if kind != "bytes":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme=kind)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token="</s>",
        extra_special_tokens=SPECIAL[2:],
        chat_template=template,
    )


def renderer(family: str, kind: str = "bytes", **options: Any) -> Renderer:
    return renderer_for(small_tokenizer(FAMILIES[family][0], kind=kind), **options)


def example(*turns: str | Message, tools: tuple[dict[str, Any], ...] = ()) -> Example:
    """Texts alternate between user and assistant."""
    roles = ("user", "assistant")
    messages = [
        turn if isinstance(turn, dict) else Message(role=roles[i % 2], content=turn) for i, turn in enumerate(turns)
    ]
    return Example(Origin("train.jsonl", 1), tuple(messages), tools)


def trained_texts(family: Renderer, row: Rendered) -> list[str]:
    """The runs of trained tokens, as text."""
    texts, run = [], []
    for token, trained in zip([*row.input_ids.tolist(), 0], [*row.trained.tolist(), False], strict=True):
        if trained:
            run.append(token)
        elif run:
            texts.append(family.tokenizer.decode(run))
            run = []
    return texts


def assert_served_as_trained(family: Renderer, row: Example) -> None:
    """Each trained turn is found once, right behind exactly the tokens that ask for it, and ends with the end token."""
    expected = [
        family.prompt_ids(row.messages[:i], row.tools) for i in family._trained_turns(row.messages)
    ]  # fmt: skip
    starts = []
    for rendered in family.render(row):
        ids, trained = rendered.input_ids.tolist(), rendered.trained.tolist()
        assert not trained[0]
        for i in range(1, len(ids)):
            if trained[i] and not trained[i - 1]:
                starts.append(ids[:i])
            if trained[i - 1] and (i == len(ids) or not trained[i]):
                assert ids[i - 1] in family.stop_ids
        assert ids[-1] in family.stop_ids
        assert trained[-1]
    assert starts == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_answer_and_its_end_token_carry_loss(family: str) -> None:
    tested = renderer(family)
    row = example("turn on the lights", "done, boss")
    [rendered] = tested.render(row)
    [text] = trained_texts(tested, rendered)
    head = "<think>\n\n</think>\n\n" if family == "qwen3" else " " if family == "mistral" else ""
    assert text == f"{head}done, boss{FAMILIES[family][1]}"
    assert tested.end_token == FAMILIES[family][1]
    assert_served_as_trained(tested, row)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_answer_of_a_long_conversation_is_trained_once(family: str) -> None:
    tested = renderer(family)
    row = example("one", "first answer", "two", "second answer", "three", "third answer")
    sequences = tested.render(row)
    texts = [text for rendered in sequences for text in trained_texts(tested, rendered)]
    assert len(texts) == 3
    assert all(part in text for part, text in zip(("first", "second", "third"), texts, strict=True))
    assert len(sequences) == (3 if family == "qwen3" else 1)
    assert_served_as_trained(tested, row)


@pytest.mark.parametrize("family", ["chatml", "llama3", "mistral", "qwen3", "phi3", "plain"])
def test_a_system_text_stands_where_inference_has_it(family: str) -> None:
    tested = renderer(family)
    row = example(
        Message(role="system", content="be brief"),
        Message(role="user", content="hello"),
        Message(role="assistant", content="hi"),
        Message(role="user", content="hello again"),
        Message(role="assistant", content="hi again"),
    )
    for rendered in tested.render(row):
        assert tested.tokenizer.decode(rendered.input_ids).count("be brief") == 1
    assert_served_as_trained(tested, row)


def test_mistral_moves_the_system_text_so_each_answer_has_its_own_sequence() -> None:
    tested = renderer("mistral")
    row = example(
        Message(role="system", content="be brief"),
        *(Message(role=role, content=text) for role, text in (("user", "a"), ("assistant", "b"))),
        *(Message(role=role, content=text) for role, text in (("user", "c"), ("assistant", "d"))),
    )
    first, second = (tested.tokenizer.decode(rendered.input_ids) for rendered in tested.render(row))
    assert first == "<s>[INST] be brief\n\na[/INST] b</s>"
    assert second == "<s>[INST] a[/INST] b</s>[INST] be brief\n\nc[/INST] d</s>"


def test_qwen3_trains_the_thinking_of_each_turn_where_it_is_generated() -> None:
    tested = renderer("qwen3")
    row = example("a", "<think>\nhm\n</think>\n\nfirst", "b", "<think>\nso\n</think>\n\nsecond")
    first, second = tested.render(row)
    assert trained_texts(tested, first) == ["<think>\nhm\n</think>\n\nfirst<|im_end|>"]
    assert trained_texts(tested, second) == ["<think>\nso\n</think>\n\nsecond<|im_end|>"]
    assert "hm" not in tested.tokenizer.decode(second.input_ids)
    assert_served_as_trained(tested, row)


@pytest.mark.parametrize("family", ["llama3", "gemma", "mistral"])
def test_the_start_token_appears_once(family: str) -> None:
    tested = renderer(family)
    for rendered in tested.render(example("a", "b", "c", "d")):
        assert rendered.input_ids.tolist().count(tested.tokenizer.bos_token_id) == 1
        assert rendered.input_ids[0] == tested.tokenizer.bos_token_id


@pytest.mark.parametrize("bos", [None, "</s>", "<|im_start|>"])
def test_named_templates_write_no_start_token_where_the_model_has_none_of_its_own(bos: str | None) -> None:
    tokenizer = small_tokenizer(NAMED["chatml"].jinja, bos)
    [rendered] = renderer_for(tokenizer).render(example("a", "b"))
    assert tokenizer.decode(rendered.input_ids) == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>"


@pytest.mark.parametrize("family", FAMILIES)
def test_weight_zero_keeps_a_turn_out_of_the_loss_but_in_the_prompt(family: str) -> None:
    tested = renderer(family)
    row = example("a", Message(role="assistant", content="unwanted", weight=0), "b", "wanted")
    [rendered] = tested.render(row)
    assert "unwanted" in tested.tokenizer.decode(rendered.input_ids)
    [text] = trained_texts(tested, rendered)
    assert "wanted" in text
    assert "unwanted" not in text
    assert_served_as_trained(tested, row)


@pytest.mark.parametrize("family", FAMILIES)
def test_last_answer_trains_the_last_one_and_whatever_has_weight_one(family: str) -> None:
    tested = renderer(family, train_on="last_answer")
    [rendered] = tested.render(example("a", "first", "b", "second"))
    assert ["second" in text for text in trained_texts(tested, rendered)] == [True]
    chosen = example("a", Message(role="assistant", content="first", weight=1), "b", "second")
    texts = [text for rendered in tested.render(chosen) for text in trained_texts(tested, rendered)]
    assert len(texts) == 2


def test_a_row_without_a_trained_turn_is_refused() -> None:
    tested = renderer("chatml", train_on="last_answer")
    row = example("a", "first", "b", Message(role="assistant", content="second", weight=0))
    with pytest.raises(DataError, match=r"train.jsonl:1: no assistant turn carries loss"):
        tested.render(row)


WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def tool_conversation(**options: Any) -> Example:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    return example(
        Message(role="user", content="how warm is it"),
        Message(role="assistant", content=None, tool_calls=[call]),  # type: ignore[list-item]
        Message(role="tool", content="20 degrees", tool_call_id="call_1"),
        Message(role="assistant", content="it is warm"),
        **options,
    )


@pytest.mark.parametrize("family", ["chatml", "llama3", "mistral", "qwen3"])
def test_tool_calls_are_trained_and_tool_answers_are_not(family: str) -> None:
    tested = renderer(family)
    tools = (WEATHER,) if tested.template.writes_tools else ()
    row = tool_conversation(tools=tools)
    call, answer = (text for rendered in tested.render(row) for text in trained_texts(tested, rendered))
    assert '"city": "Bern"' in call
    assert "weather" in call
    assert "it is warm" in answer
    assert "20 degrees" not in call + answer
    assert_served_as_trained(tested, row)


def test_a_template_that_cannot_show_tools_or_calls_is_refused_not_ignored() -> None:
    with pytest.raises(TemplateError, match=r"tools, which the chat template does not show"):
        renderer("phi3").render(tool_conversation(tools=(WEATHER,)))
    with pytest.raises(TemplateError, match=r"tool_calls, which the chat template does not write"):
        renderer("phi3").render(tool_conversation())
    with pytest.raises(TemplateError, match=r"tools, which the chat template does not show"):
        renderer("phi3").prompt_ids(example("a", "b").messages[:1], (WEATHER,))


def test_a_template_that_joins_a_calls_arguments_as_text_gets_text() -> None:
    template = NAMED["chatml"].jinja.replace(
        "call.function.arguments if call.function.arguments is string else call.function.arguments | tojson",
        "call.function.arguments",
    )
    tested = renderer_for(small_tokenizer(template))
    assert '{"city": "Bern"}' in tested.describe(tool_conversation())


def test_an_answer_that_would_merge_with_its_header_is_split_from_it() -> None:
    template = PLAIN.replace("'assistant:'", "'assistant:\\n'").replace("m.role + ':'", "m.role + ':\\n'")
    merging = renderer_for(small_tokenizer(template))
    row = example("hello", "\n\nanswer")
    prompt = merging.prompt_ids(row.messages[:1])
    joined = merging._encode(merging._decode(prompt) + "\n\nanswer")
    assert joined[: len(prompt)] != prompt, "the corpus should have taught the tokenizer to merge line breaks"
    [rendered] = merging.render(row)
    assert trained_texts(merging, rendered) == ["\n\nanswer</s>"]
    assert_served_as_trained(merging, row)


def test_what_a_template_refuses_is_said_in_its_own_words() -> None:
    row = example(
        Message(role="system", content="s"), Message(role="user", content="a"), Message(role="assistant", content="b")
    )
    with pytest.raises(TemplateError, match=r"train.jsonl:1: .*System role not supported"):
        renderer("gemma").render(row)


def test_all_rows_a_template_refuses_are_named_together() -> None:
    bad = example(
        Message(role="system", content="s"), Message(role="user", content="a"), Message(role="assistant", content="b")
    )
    with pytest.raises(TemplateError, match=r"2 of 3 rows") as caught:
        renderer("gemma").render_all([bad, example("a", "b"), bad])
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "ends an answer with '\\\\n'"),
        ("{% for m in messages %}{{ m.content + ' STOP ' }}{% endfor %}", "no single token"),
        ("{% for m in messages %}{{ m.content }}{% endif %}", "refuses the conversation"),
    ],
)
def test_a_template_that_cannot_teach_to_stop_is_refused(template: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        renderer_for(small_tokenizer(template))


def test_without_a_template_only_plain_text_can_be_rendered() -> None:
    tested = renderer_for(small_tokenizer(None))
    assert len(tested.render(Example(Origin("a.txt", 1), text="the kitchen"))) == 1
    for attempt in (tested.render, lambda row: tested.render_all([row]), lambda row: tested.prompt_ids(row.messages)):
        with pytest.raises(TemplateError, match="no chat template") as caught:
            attempt(example("a", "b"))
        assert caught.value.param == "model.chat_template"
    assert tested.stop_ids == (tested.tokenizer.eos_token_id,)


def test_a_template_that_drops_a_part_of_the_answer_is_refused() -> None:
    dropping = PLAIN.replace("m.content", "m.content.split('</think>')[-1]")
    with pytest.raises(TemplateError, match="leaves out a part of message 2"):
        renderer_for(small_tokenizer(dropping)).render(example("a", "<think>why</think>b"))


def test_a_template_that_leaves_out_a_message_is_refused() -> None:
    dropping = PLAIN.replace("m in messages", "m in messages if m.role != 'system'")
    row = example(
        Message(role="system", content="be brief"),
        Message(role="user", content="a"),
        Message(role="assistant", content="b"),
    )
    with pytest.raises(TemplateError, match="leaves out message 1, of role system"):
        renderer_for(small_tokenizer(dropping)).render(row)


def test_a_template_that_asks_otherwise_than_it_writes_is_refused() -> None:
    asking = PLAIN.replace("'assistant:'", "'assistant:<think>'")
    with pytest.raises(TemplateError, match="asks for message 2 otherwise"):
        renderer_for(small_tokenizer(asking)).render(example("a", "b"))


def test_plain_text_trains_every_token_but_the_first_and_ends() -> None:
    tested = renderer("chatml")
    [rendered] = tested.render(Example(Origin("a.txt", 1), text="the kitchen is warm"))
    assert rendered.trained.tolist() == [False] + [True] * (len(rendered) - 1)
    assert tested.tokenizer.decode(rendered.input_ids) == "the kitchen is warm</s>"


def test_describe_marks_what_carries_loss() -> None:
    text = renderer("chatml").describe(example("a", "b"))
    assert text.endswith("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n>>>b<|im_end|><<<")
    assert text.startswith("train.jsonl:1: ")


def test_generation_stops_at_the_turns_end_and_at_the_texts_end() -> None:
    tested = renderer("chatml")
    names = tested.tokenizer.convert_ids_to_tokens(list(tested.stop_ids))
    assert names == ["<|im_end|>", "</s>"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_is_what_transformers_makes_of_the_template(family: str) -> None:
    tested = renderer(family)
    messages = example("turn on the lights", "done", "and off again", "").messages[:3]
    expected = tested.tokenizer.apply_chat_template([dict(m) for m in messages], add_generation_prompt=True)
    assert tested.prompt_ids(messages) == expected["input_ids"]


texts = st.text(st.characters(codec="utf-8", exclude_characters="<>[]|"), min_size=1, max_size=20).filter(str.strip)


@pytest.mark.parametrize("kind", ["first", "always"])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_space_is_put_before_an_answer(family: str, kind: str) -> None:
    tested = renderer(family, kind)
    row = example("the kitchen", "is warm today", "and the lights", "on")
    for rendered in tested.render(row):
        ids = rendered.input_ids.tolist()
        assert ids == tested._encode(tested.tokenizer.decode(ids).removeprefix(" ")), "as tokenised in one go"
    assert_served_as_trained(tested, row)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=40, deadline=None)
@given(turns=st.lists(st.tuples(texts, texts), min_size=1, max_size=3))
def test_whatever_is_said_is_served_as_trained(family: str, turns: list[tuple[str, str]]) -> None:
    tested = renderer(family)
    row = example(*(text for pair in turns for text in pair))
    assert_served_as_trained(tested, row)


@pytest.mark.starter
def test_the_starter_model_answers_in_its_own_template() -> None:
    from residency.config.model import Model
    from residency.models.load import load_tokenizer

    tested = renderer_for(load_tokenizer(Model(id="smollm2-135m")))
    row = example("Turn on the lights.", "Done.", "And now?", "Off again.")
    assert tested.describe(row).endswith(
        "<|im_start|>user\nTurn on the lights.<|im_end|>\n<|im_start|>assistant\n>>>Done.<|im_end|><<<\n"
        "<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n>>>Off again.<|im_end|><<<"
    )
    assert "You are a helpful AI assistant named SmolLM" in tested.describe(row)
    assert tested.stop_ids == (2,)
    assert_served_as_trained(tested, row)
    with pytest.raises(TemplateError, match="tools, which the chat template does not show"):
        tested.render(tool_conversation(tools=(WEATHER,)))
