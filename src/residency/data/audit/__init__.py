"""The data doctor: what is wrong with the examples, row by row, before anything is trained.

table.py        the rows as columns, which every check reads
findings.py     what a check says
schema.py       stage 0: what one row shows by itself
duplicates.py   stage 1: rows compared with rows; `shingles` finds the similar ones in linear time
private.py      stage 1: secrets and personal data
style.py        stage 1: habits of format, tone, length and label, and the rows that break them
score.py        0 to 100, every lost point with its rows
audit.py        all checks in order: the page to read first
fix.py          what may be repaired, as changes a person accepts or refuses
"""
