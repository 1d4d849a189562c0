"""The settings of training, one group a file.

On the command line and in files they are flat: `rank`, not `adapter.rank`.
"""
