"""Rows of every accepted format become conversations, and conversations become tokens with a loss mask.

Read in this order: `messages` (the shapes), `sources` (files to rows), `formats` (rows to turns), `turns` (what a
conversation must be), `validate` (all of it, with every problem collected), `render` (tokens), `lengths`, `split`.
"""
