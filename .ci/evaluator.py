"""Measures the evaluator's speed and memory, and shows that chunks do not change its result: python .ci/evaluator.py

It evaluates the one-layer network of Burda et al. (2016), 784 – 200 – 200 – 50, with its initial parameters, on random
binary images, since the time does not depend on the numbers. Only the floating-point operations of the decoder's
products are counted, so all other work lowers the fraction of the matrix-product rate. That rate is measured in
between, in the same process.
"""

import argparse
import json
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxvae as jv
from jaxvae.evaluation import PerExample

ROWS = 4096


def rate(a, b):
    """GFLOP/s of a matrix product, as the median of several."""
    product = jax.jit(jnp.matmul)
    product(a, b).block_until_ready()
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        product(a, b).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * a.shape[0] * a.shape[1] * b.shape[1] / float(np.median(seconds)) / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-examples", type=int, default=10_000)
    parser.add_argument("--num-importance-samples", type=int, default=5000)
    args = parser.parse_args()

    model = jv.VAE(
        event_shape=(28, 28, 1),
        latent_dim=50,
        encoder=jv.MLP(hidden=(200, 200), activation="tanh"),
        decoder=jv.MLP(hidden=(200, 200), activation="tanh"),
    )
    key = jax.random.key(0)
    params = model.init(key)
    x = (np.random.default_rng(0).random((args.num_examples, 28, 28, 1)) < 0.13).astype(np.uint8)
    options = {"num_importance_samples": args.num_importance_samples}

    few = x[:200]
    numbers = [
        jv.make_evaluator(model, rows_at_once=rows)(params, key, few, **options).log_evidence.mean()
        for rows in (1024, 4096, 16_384)
    ]
    print(f"log p(x) of {len(few)} examples, by 1,024, 4,096 and 16,384 rows at once: {[f'{n:.6f}' for n in numbers]}")

    square, wide = jax.random.normal(key, (2048, 2048)), jax.random.normal(key, (ROWS, 200))
    output = params["decoder"]["output"]["kernel"]
    evaluate = jv.make_evaluator(model, rows_at_once=ROWS)
    evaluate(params, key, x[:64], num_importance_samples=64)
    seconds, square_rates, own_rates, parts = 0.0, [], [], []
    for first in range(0, len(x), 640):  # ten batches of the evaluator
        square_rates.append(rate(square, square))
        own_rates.append(rate(wide, output))
        start = time.perf_counter()
        parts.append(evaluate(params, key, x[: first + 640], start=first, **options))
        seconds += time.perf_counter() - start
    work = 2.0 * args.num_examples * args.num_importance_samples * (50 * 200 + 200 * 200 + 200 * 784) / 1e9
    result = {
        "num_examples": len(PerExample.joined(parts).rate),
        "num_importance_samples": args.num_importance_samples,
        "seconds": round(seconds, 1),
        "rows_per_second": round(args.num_examples * args.num_importance_samples / seconds),
        "gflops": round(work / seconds, 1),
        "gflops_of_2048x2048": round(float(np.median(square_rates)), 1),
        "gflops_of_its_largest_product": round(float(np.median(own_rates)), 1),
        "fraction": round(work / seconds / float(np.median(square_rates)), 3),
        "fraction_of_its_largest_product": round(work / seconds / float(np.median(own_rates)), 3),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
