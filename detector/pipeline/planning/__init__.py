"""Planning: from a folder of photographs, a machine and a number of minutes to the settings of a training.

`fingerprint.py` measures the data and `machine.py` the computer. `rules.py` turns both into settings with reasons,
`trial.py` times a real step, and `planner.py` combines them.
"""
