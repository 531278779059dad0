"""From a handle to local files: names, downloads, archives and digests."""
