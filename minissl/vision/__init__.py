"""Images: the sets they come in, how pixels become inputs, augmentation, and batches made ahead of their step."""

from minissl.vision.augment import augment
from minissl.vision.datasets import load_images
from minissl.vision.images import ImageParts, Images, PixelScale
from minissl.vision.loader import Loader, rows_of

__all__ = ["ImageParts", "Images", "Loader", "PixelScale", "augment", "load_images", "rows_of"]
