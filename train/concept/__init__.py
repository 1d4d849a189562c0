"""Teaching one concept: `python -m train.concept`."""
