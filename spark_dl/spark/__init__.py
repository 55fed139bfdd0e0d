"""What the package asks of Spark itself: sessions, jobs, Python workers."""
