"""Batch jobs: files of users in, files of recommendations out; resumable, in one process or on a cluster."""

from reg4rec.batch.job import recommend_to_folder

__all__ = ["recommend_to_folder"]
