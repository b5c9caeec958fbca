"""Speed and memory as ratios within one run: what this suite costs beside what its users would otherwise run.

Seconds say more of the machine than of the code; ratios of two things measured in turn on the same machine carry over.
`python -m benchmarks.speed` measures, prints a table and writes it to ``results``.
"""
