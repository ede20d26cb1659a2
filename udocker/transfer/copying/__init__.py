"""Images from anywhere to anywhere: both ends, and what goes between them."""
