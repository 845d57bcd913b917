"""Readers of what annotation tools write, one format a file.

Each has two functions. `find(tree)` looks at names and a file's first bytes, and returns the files of its format.
`read(tree, files)` makes records of them. `choose.py` asks all of them.
"""
