"""Containers: what they are on disk and what will run in them."""
