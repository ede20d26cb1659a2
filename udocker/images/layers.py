"""Layers to a root file system: unpack each alone, in any order or at once, then merge them."""

from udocker.images.layertree import LayerTree, left_out
from udocker.images.merge import merge
from udocker.images.tar import Limits
from udocker.images.unpack import unpack

__all__ = ["LayerTree", "Limits", "left_out", "merge", "unpack"]
