"""Layers to a root file system: unpack each alone, in any order or at once, then merge them."""

from udocker.images.archives.tar import Limits
from udocker.images.layers.layertree import LayerTree, left_out
from udocker.images.layers.merge import merge
from udocker.images.layers.unpack import unpack

__all__ = ["LayerTree", "Limits", "left_out", "merge", "unpack"]
