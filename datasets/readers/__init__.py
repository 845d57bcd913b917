"""Readers of the formats of annotation tools, one format per file.

Each has two functions. `find(tree)` returns the files of its format, by their names and first bytes.
`read(tree, files)` turns them into records. `choose.py` calls `find` of all readers.
"""
