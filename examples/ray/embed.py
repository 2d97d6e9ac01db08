"""Embeds a pile of pictures with Ray Data, on one machine or many, into Parquet.

    python embed.py photos/ --model fashion.gguf --out vectors --actors 2 --threads 4
    python embed.py list.parquet --model /shared/dinov2.gguf --out /shared/vectors --actors 400 --threads 8

PICTURES is a folder, or Parquet with a column 'path', and 'bytes' if the pictures themselves are in it. Rows have the
columns of the input without 'bytes', and 'embedding' and 'error', of which one is null.

A run that was stopped goes on when it is started again with the same arguments: Ray Data keeps in OUT-checkpoint which
paths are written. So it is with a run that ended, and new pictures. Remove both folders for another model or other
settings.

RAY_ADDRESS names a running cluster; without it this machine is one. All paths have to be the same on all machines. A
cluster must have two CPUs or more beside actors x threads, for what reads and writes.
"""

import argparse
import os
from pathlib import Path

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.data.checkpoint import CheckpointConfig

import vit_engine.ray


def pictures(source: str) -> Dataset:
    """Read the pictures, each with its path: Ray reads the files of a folder, actors those of a list."""
    if source.endswith(".parquet"):
        return ray.data.read_parquet(source)
    return ray.data.read_binary_files(source, include_paths=True)


def main() -> None:
    """Read, embed, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", metavar="PICTURES")
    parser.add_argument("--model", required=True, help="a folder, a file, or a name in the local hub cache")
    parser.add_argument("--precision", help="f32, f16, bf16, int8 or int4")
    parser.add_argument("--features", default="embedding", help="embedding, class or logits")
    parser.add_argument("--out", required=True, type=Path, help="the folder of Parquet files")
    parser.add_argument("--actors", default=1, type=int, help="processes that compute, in the whole cluster")
    parser.add_argument("--threads", default=1, type=int, help="threads, and CPUs, of each")
    parser.add_argument(
        "--batch-size", default=256, type=int, help="the most pictures that an actor is given at a time"
    )
    arguments = parser.parse_args()
    out = arguments.out.absolute()

    # An actor keeps its CPUs; if none is left, reading never starts. On one machine they are Ray's book-keeping alone.
    needed = arguments.actors * arguments.threads + 2
    ray.init(num_cpus=None if "RAY_ADDRESS" in os.environ else max(needed, os.cpu_count() or 1))
    if ray.cluster_resources().get("CPU", 0) < needed:
        print(f"this waits until the cluster has {needed} CPUs")
    DataContext.get_current().checkpoint_config = CheckpointConfig(
        id_column="path", checkpoint_path=f"{out}-checkpoint", delete_checkpoint_on_success=False
    )
    model = {name: getattr(arguments, name) for name in ["model", "precision", "features"]}
    rows = pictures(arguments.pictures).map_batches(
        vit_engine.ray.Embedder,
        fn_constructor_kwargs=model,
        compute=ActorPoolStrategy(size=arguments.actors),
        num_cpus=arguments.threads,
        batch_size=arguments.batch_size,
        batch_format="pyarrow",
    )
    rows.write_parquet(str(out))


if __name__ == "__main__":
    main()
