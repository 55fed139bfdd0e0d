"""Queries of the kinds that a fit and a transform run, so that a JVM can archive the classes that they load.

`spark-submit --driver-java-options -XX:ArchiveClassesAtExit=FILE scripts/class_archive.py`; JVMs with
`-XX:SharedArchiveFile=FILE` start sooner. One of another build or with other jars ignores the file.
"""

from __future__ import annotations

import tempfile

from pyspark.sql import SparkSession
from pyspark.sql import functions as F


def main() -> None:
    spark = SparkSession.builder.getOrCreate()
    rows = spark.range(100).select(
        "id", F.rand(1).alias("x"), F.array("id").alias("ids"), F.expr("string(id)").alias("s")
    )
    with tempfile.TemporaryDirectory() as directory:
        rows.repartition(2).write.parquet(f"{directory}/rows")
        read = spark.read.parquet(f"{directory}/rows")
        read.groupBy("s").agg(F.count("x"), F.max("id")).orderBy("s").toPandas()
        read.mapInArrow(lambda batches: batches, read.schema).toArrow()
        read.mapInArrow(lambda batches: batches, read.schema, barrier=True).collect()
        read.createOrReplaceTempView("rows")
        spark.sql("SELECT id, x FROM rows WHERE x > 0.5").collect()
    spark.stop()


if __name__ == "__main__":
    main()
