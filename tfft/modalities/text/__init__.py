"""Texts and pairs of texts: tables, lists and folders, batches by length, checks."""
