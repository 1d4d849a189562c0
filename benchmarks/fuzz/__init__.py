"""Damaged files and wrong commands: each must give one clear line, or exactly the result of the undamaged input."""
