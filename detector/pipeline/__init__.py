"""Whole jobs: they join data sets, detector and configs. Train, evaluate, predict."""
