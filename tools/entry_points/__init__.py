"""The entry point of each command: read its words, print its help, find its config, then load and run its code.

The modules load neither torch nor Hydra, so help and errors about words come at once.
"""
