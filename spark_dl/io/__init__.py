"""Files: directories by URL, the workspace of a fit, replacing of directories, shipping of large payloads to tasks."""
