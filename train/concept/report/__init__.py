"""`report.html` of a run: what was set, how the losses went, what it draws, and how to use it."""
