"""Folders that several machines share: on a file system, or in an object store."""
