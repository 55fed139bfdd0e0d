"""Fast tests: no Spark session, no cluster."""
