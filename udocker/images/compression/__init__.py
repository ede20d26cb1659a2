"""Bytes made smaller and larger: layers as they travel."""
