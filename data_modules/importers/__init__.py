"""Importers: from published files, and from clips of one's own, to what a store is written from."""
