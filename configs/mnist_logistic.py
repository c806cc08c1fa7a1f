"""Grey MNIST, each pixel a discretized logistic over 256 levels: Kingma et al. (2016).

Networks and budget are those of `mnist_gaussian.py`.

    python scripts/train.py --config=configs/mnist_logistic.py --config.data.data_dir=DIR --workdir=runs/logistic
    python scripts/evaluate.py --workdir=runs/logistic --num-importance-samples=500

Expected: at most 1.48 bits per dimension (log p(x) at least -803 nats, 500 draws); 3 minutes on two cores.
"""

import jaxvae as jv


def get_config() -> jv.Experiment:
    return jv.Experiment(
        data=jv.Data(name="mnist", preprocess=jv.Raw(), num_validation=10_000),
        model=jv.VAE(
            latent_dim=50,
            encoder=jv.MLP(hidden=(200, 200), activation="tanh"),
            decoder=jv.MLP(hidden=(200, 200), activation="tanh"),
            likelihood=jv.DiscretizedLogistic(),
        ),
        objective=jv.ELBO(),
        optimizer=jv.Adam(learning_rate=1e-3, schedule=jv.Cosine(warmup_epochs=1)),
        num_epochs=100,
        batch_size=250,
        kl_warmup_epochs=10,
        eval_every_epochs=5,
    )
