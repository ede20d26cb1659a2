"""Images on disk: content by digest, layers unpacked into trees."""
