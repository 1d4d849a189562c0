"""Teaching, merging, drawing, measuring and the table: the same for every world."""
