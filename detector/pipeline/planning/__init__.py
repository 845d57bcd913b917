"""From a folder of photographs, a machine and a number of minutes to the settings of a training.

`fingerprint.py` measures the data, `machine.py` the computer, `rules.py` turns both into settings with reasons,
`trial.py` times the real step, and `planner.py` joins them.
"""
