"""The settings of training. Each group has its own file.

On the command line and in files they are flat: `rank`, not `adapter.rank`.
"""
