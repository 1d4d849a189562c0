"""Damaged files and wrong commands: each must end in one clear line, or in exactly what the undamaged input gives."""
