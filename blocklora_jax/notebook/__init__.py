"""For notebooks: pictures, sliders, and what is shown while something runs. Without a notebook they work too."""
