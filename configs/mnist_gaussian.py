"""Grey MNIST, a Gaussian with a variance for each pixel: Kingma and Welling (2014), appendix C.2, dequantized.

    python scripts/train.py --config=configs/mnist_gaussian.py --config.data.data_dir=DIR --workdir=runs/gaussian
    python scripts/evaluate.py --workdir=runs/gaussian --num-importance-samples=500

Uniform noise turns the 256 grey levels into real numbers with a density (Theis et al., 2016), whose bits per dimension
are an upper bound on those of the levels.

Expected: at most 3.43 bits per dimension (log p(x) at least 2,483 nats, 500 draws); about 3 minutes on two cores.
"""

import jaxvae as jv


def get_config() -> jv.Experiment:
    return jv.Experiment(
        data=jv.Data(name="mnist", preprocess=jv.Dequantization(), num_validation=10_000),
        model=jv.VAE(
            latent_dim=50,
            encoder=jv.MLP(hidden=(200, 200), activation="tanh"),
            decoder=jv.MLP(hidden=(200, 200), activation="tanh"),
            likelihood=jv.Gaussian(variance=jv.PerPixel()),
        ),
        objective=jv.ELBO(),
        optimizer=jv.Adam(learning_rate=1e-3, schedule=jv.Cosine(warmup_epochs=1)),
        num_epochs=100,
        batch_size=250,
        kl_warmup_epochs=10,
        eval_every_epochs=5,
    )
