"""Tests, mirrored on the folders."""
