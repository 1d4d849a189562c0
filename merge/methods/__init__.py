"""The merge methods, one file for each. `table.METHODS` lists them all."""
