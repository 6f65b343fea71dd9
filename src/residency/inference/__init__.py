"""Answers from one base model and any number of its adapters, in a process of their own.

requests.py      what a client may ask for, checked
language.py      a tokenizer, its chat template, its tool calls, and grammars over its tokens
chat.py          from a chat request to rows, and from their tokens to OpenAI's answer
completions.py   the same for plain text
decoder.py       one thread: rows come and go, each step decodes a token of all of them
batch.py         one step: which tokens pass through the model, and what each row gets
app.py           HTTP
"""
