"""Complete jobs that combine data sets, detector and configs: train, evaluate, predict."""
