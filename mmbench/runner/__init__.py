"""The plan, the trials and their records."""
