"""Files: directories by their URLs, the workspace of a fit, replacing a directory, shipping large payloads."""
