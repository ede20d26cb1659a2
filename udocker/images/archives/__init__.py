"""Archives: tar as a format, and the images that archives hold."""
