"""Images: files, tables and arrays, decoding, augmentation and checks."""
