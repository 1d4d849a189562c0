"""The merge commands: one file a verb."""
