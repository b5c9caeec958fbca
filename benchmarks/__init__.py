"""What is run with the suite: suites, settings per data set, baselines, and measurements of speed."""
