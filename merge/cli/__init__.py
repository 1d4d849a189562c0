"""The merge commands, one file for each."""
