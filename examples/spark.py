"""Recommend on Spark for the users in a table, through `mapInArrow`: `spark-submit examples/spark.py`.

A Spark task loads the recommender once for all batches of its partition; Spark repeats the tasks of a lost worker. A
worker needs the memory of one recommender (docs/scale.md). Needs pyspark, which is not a dependency.
"""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from reg4rec import Recommender

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

COLUMNS = {"user_id": pa.string(), "rank": pa.int32(), "item_id": pa.string(), "score": pa.float32()}


def main(users: "DataFrame", model: str, k: int = 10) -> "DataFrame":
    """The best k items for each row of `users` (user_id, items); all machines must see the folder `model`."""

    def recommend(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        recommender = Recommender.from_pretrained(model, device="cpu")
        for batch in batches:
            found = recommender.recommend(pa.Table.from_batches([batch]), k=k)
            yield from found.select([*COLUMNS]).cast(pa.schema(COLUMNS)).to_batches()

    schema = "user_id string, rank int, item_id string, score float"
    return users.select("user_id", "items").mapInArrow(recommend, schema)


if __name__ == "__main__":
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.getOrCreate()
    main(spark.read.parquet(sys.argv[2]), sys.argv[1]).write.mode("overwrite").parquet(sys.argv[3])
