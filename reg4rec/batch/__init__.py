"""Files of users in, parts of recommendations out: resumable jobs, in one process or on a cluster."""

from reg4rec.batch.job import recommend_to_folder

__all__ = ["recommend_to_folder"]
