"""The data doctor: what is wrong with the examples, row by row, before anything is trained.

audit.py        all checks in order: the page to read first
table.py        the rows as columns, which every check reads
findings.py     what a check says
words.py        texts as numbers
alone.py        what each row shows by itself, looked at in a second process (beside.py) while rows are compared
schema.py       stage 0: what one row shows by itself
residue.py      stage 0: what templates left in the text
similar.py      stage 1: similar rows in linear time (MinHash)
questions.py    stage 1: whether two prompts ask the same
compare.py      stage 1: copies, and test rows among the training rows
answers.py      stage 1: contradictions, and questions with many answers
private.py      stage 1: secrets and personal data
style.py        stage 1: habits of format, tone, length and label, and the rows that break them
subjects.py     stage 2, all of it, on word vectors (embeddings.py): like rows (neighbours.py), topics (clusters.py),
                answers that do not go with their questions (misfits.py),
                test prompts far from all training prompts (coverage.py)
excerpts.py     what the rows say that a finding names first
score.py        0 to 100, every lost point with its rows
fix.py          what may be repaired, as changes a person accepts or refuses
parts.py        rows for training, validation and test
"""
