"""Methods of merging: one file each, one table."""
