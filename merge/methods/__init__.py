"""Methods of merging: one file each; `table.METHODS` lists them all."""
