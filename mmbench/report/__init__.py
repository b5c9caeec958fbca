"""From records to tables: pure functions of what was measured."""

from mmbench.report.leaderboard import Report, build, render
from mmbench.report.terminal import terminal_table

__all__ = ["Report", "build", "render", "terminal_table"]
